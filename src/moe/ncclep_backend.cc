// SPDX-License-Identifier: Apache-2.0
//
// The `ncclep` backend: every rank has room for a fixed number of rows, which arrive grouped by expert. The
// room follows the largest microbatch so far. More than fits is an error of all ranks before anything moves,
// or, with moe_ncclep_drop_on_overflow, dropped and counted.
#include <algorithm>
#include <cstring>
#include <vector>

#include "common/check.h"
#include "common/math.h"
#include "moe/expert_alignment.h"
#include "moe/flex_backends.h"
#include "moe/topk_backend.h"

namespace flexep::moe {
namespace {

constexpr std::int64_t kTokenGranularity = 64;

/// What all ranks are about to send.
struct Load {
  std::int64_t largest_num_tokens = 0;  ///< of one rank
  std::vector<std::int64_t> num_pairs;  ///< [V], for each virtual expert
};

// Collective.
Load gather_load(Communicator& comm, const Tensor& token_indices, int num_virtual_experts) {
  // Mine: pairs for each expert, then tokens.
  std::vector<std::int32_t> mine(static_cast<std::size_t>(num_virtual_experts) + 1);
  for (const std::int64_t expert : token_indices.values<std::int64_t>())
    if (0 <= expert && expert < num_virtual_experts) ++mine[static_cast<std::size_t>(expert)];
  mine.back() = static_cast<std::int32_t>(token_indices.size(0));

  Load load{.largest_num_tokens = 0,
            .num_pairs = std::vector<std::int64_t>(static_cast<std::size_t>(num_virtual_experts))};
  std::vector<std::int32_t> each(mine.size());
  for (const auto& bytes : comm.all_gather_bytes(std::as_bytes(std::span(mine)))) {
    std::memcpy(each.data(), bytes.data(), std::min(bytes.size(), each.size() * sizeof(std::int32_t)));
    for (std::size_t expert = 0; expert < load.num_pairs.size(); ++expert)
      load.num_pairs[expert] += each[expert];
    load.largest_num_tokens = std::max<std::int64_t>(load.largest_num_tokens, each.back());
  }
  return load;
}

class NcclEpBackend final : public TopkBackend {
 public:
  NcclEpBackend(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group)
      : TopkBackend(config, group, make_expanded_rows(group->buffer(), quantized_alignment(config)), {}) {}

  Tokens dispatch(const Tokens& tokens, const AsyncOptions&) override {
    const Load load = gather_load(group().comm(), token_indices(), num_virtual_experts());
    const int capacity = capacity_for(load.largest_num_tokens);
    if (!config().moe_ncclep_drop_on_overflow) require_room(load, capacity);
    Tokens received = send(with_probs(tokens), token_indices(), capacity, kSynchronous);
    group().flex_state().num_dropped_pairs += num_dropped_pairs();
    return received;
  }
  Tensor combine(const Tensor& received, const AsyncOptions&) override {
    return TopkBackend::combine(received, kSynchronous);
  }

 private:
  // The same on all ranks.
  int capacity_for(std::int64_t num_tokens) {
    auto& largest = group().flex_state().num_max_tokens;
    largest = std::max(largest, align_up(num_tokens, kTokenGranularity));
    return rank_capacity(config(), largest * config().expert_tensor_parallel_size * config().moe_router_topk);
  }

  void require_room(const Load& load, int capacity) const {
    const auto num_local_experts = static_cast<std::size_t>(config().num_local_experts());
    for (std::size_t first = 0; first < load.num_pairs.size(); first += num_local_experts) {
      std::int64_t num_rows = 0;
      for (std::size_t local = 0; local < num_local_experts; ++local)
        num_rows += align_up(load.num_pairs[first + local], std::int64_t{quantized_alignment(config())});
      require_argument(num_rows <= capacity, "moe_expert_rank_capacity_factor",
                       "rank {} would receive {} tokens, more than its capacity of {}: raise "
                       "moe_expert_rank_capacity_factor ({}), or let moe_ncclep_drop_on_overflow drop them",
                       first / num_local_experts, num_rows, capacity,
                       *config().moe_expert_rank_capacity_factor);
    }
  }
};

}  // namespace

std::unique_ptr<FlexBackend> make_ncclep_backend(const MoeConfig& config,
                                                 std::shared_ptr<ExpertParallelGroup> group) {
  return std::make_unique<NcclEpBackend>(config, group);
}

}  // namespace flexep::moe
