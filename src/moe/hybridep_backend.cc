// SPDX-License-Identifier: Apache-2.0
//
// The `hybridep` backend: sends what the routing map says, any number of experts for a token; rows arrive
// grouped by expert. moe_expert_rank_capacity_factor sets a budget of rows: what does not fit is dropped,
// counted, and raises a flag that stays up.
#include <algorithm>

#include "common/math.h"
#include "moe/elastic_backend.h"
#include "moe/expert_alignment.h"
#include "moe/flex_backends.h"
#include "moe/floating.h"
#include "moe/rows.h"
#include "moe/topk.h"
#include "moe/virtual_experts.h"

namespace flexep::moe {
namespace {

constexpr std::int64_t kTokenGranularity = 64;  // of moe_hybridep_pad_variable_tokens

std::int64_t num_experts_of_token(const Tensor& routing_map, std::int64_t token) {
  const auto row = row_of<std::int32_t>(routing_map, token);
  return std::ranges::count_if(row, [](std::int32_t is_routed) { return is_routed != 0; });
}

std::int64_t largest_num_experts(const Tensor& routing_map) {
  std::int64_t largest = 0;
  for (std::int64_t token = 0; token < routing_map.size(0); ++token)
    largest = std::max(largest, num_experts_of_token(routing_map, token));
  return largest;
}

// int64 [T, num_columns]: the experts of each token, ascending, then -1.
Tensor experts_of(const Tensor& routing_map, std::int64_t num_columns) {
  Tensor idx = Tensor::empty({routing_map.size(0), num_columns}, DType::kInt64);
  for (std::int64_t token = 0; token < routing_map.size(0); ++token) {
    const auto is_routed = row_of<std::int32_t>(routing_map, token);
    const auto columns = row_of<std::int64_t>(idx, token);
    std::ranges::fill(columns, -1);
    std::size_t next = 0;
    for (std::size_t expert = 0; expert < is_routed.size(); ++expert)
      if (is_routed[expert] != 0) columns[next++] = static_cast<std::int64_t>(expert);
  }
  return idx;
}

class HybridEpBackend final : public ElasticBackend {
 public:
  HybridEpBackend(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group)
      : ElasticBackend(config, group, make_expanded_rows(group->buffer(), quantized_alignment(config))) {}

  Tensor setup_metadata(const Tensor& probs, const Tensor& routing_map) override {
    routing_map_ = to_virtual_experts(config(), routing_map);
    token_probs_ = to_virtual_experts(config(), probs);
    return token_probs_;
  }
  Gradient<Tensor> setup_metadata_backward(const Gradient<Tensor>& token_probs) override {
    return to_virtual_experts_backward(config(), token_probs);
  }

  Tokens dispatch(const Tokens& tokens, const AsyncOptions&) override {
    const Extent extent = agree_on_extent(tokens.hidden.size(0));
    topk_idx_ = experts_of(routing_map_, extent.num_columns);
    const Tensor& probs = tokens.probs ? tokens.probs : token_probs_;
    Tokens received = send({.hidden = tokens.hidden, .probs = gather_columns(probs, topk_idx_)}, topk_idx_,
                           budget_for(extent.num_tokens), kSynchronous);
    FlexState& state = group().flex_state();
    state.num_dropped_pairs += num_dropped_pairs();
    state.over_budget = state.over_budget || num_dropped_pairs() > 0;
    return received;
  }
  TokenGradients dispatch_backward(const TokenGradients& received) override {
    const auto grads = ElasticBackend::dispatch_backward(received);
    return {.hidden = grads.hidden,
            .probs = scatter_columns(cast(grads.probs, probs_dtype()), topk_idx_, num_virtual_experts())};
  }
  Tensor combine(const Tensor& received, const AsyncOptions&) override {
    return ElasticBackend::combine(received, kSynchronous);
  }

  std::optional<bool> check_over_budget() const override {
    if (!config().moe_expert_rank_capacity_factor) return std::nullopt;
    return group().flex_state().over_budget;
  }
  Tensor* find_cudagraph_attr(std::string_view name) override {
    if (name == "token_probs") return &token_probs_;
    if (name == "routing_map") return &routing_map_;
    return nullptr;
  }
  void reset() override {
    ElasticBackend::reset();
    routing_map_ = token_probs_ = topk_idx_ = {};
  }

 private:
  /// The largest on any rank.
  struct Extent {
    std::int64_t num_tokens;
    std::int64_t num_columns;  ///< experts of one token
  };

  // In place of upstream's exchange of whole maps.
  Extent agree_on_extent(std::int64_t num_tokens) {
    Extent largest{.num_tokens = 0, .num_columns = 1};
    for (const Extent& each :
         group().comm().all_gather(Extent{num_tokens, largest_num_experts(routing_map_)})) {
      largest.num_tokens = std::max(largest.num_tokens, each.num_tokens);
      largest.num_columns = std::max(largest.num_columns, each.num_columns);
    }
    return largest;
  }

  // Rows; 0 = no limit. Tokens that moe_hybridep_pad_variable_tokens would append go to no expert: there is
  // nothing to append, and only the budget counts them.
  int budget_for(std::int64_t num_tokens) const {
    if (!config().moe_expert_rank_capacity_factor) return 0;
    if (config().moe_hybridep_pad_variable_tokens) num_tokens = align_up(num_tokens, kTokenGranularity);
    return rank_capacity(config(), num_tokens * config().moe_router_topk);
  }

  Tensor routing_map_;  // int32 [T, V]
  Tensor token_probs_;  // [T, V]
  Tensor topk_idx_;     // int64 [T, columns], what the map says
};

}  // namespace

std::unique_ptr<FlexBackend> make_hybridep_backend(const MoeConfig& config,
                                                   std::shared_ptr<ExpertParallelGroup> group) {
  return std::make_unique<HybridEpBackend>(config, group);
}

}  // namespace flexep::moe
