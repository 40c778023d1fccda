// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "flexep/moe/token_dispatcher.h"
#include "matrices.h"

/// One microbatch through any dispatcher, forward and backward, held against the plainest sums there are.
namespace flexep::moe::testing {

struct Grid {
  int tp;
  int ep;
};

struct DispatcherKind {
  const char* name;
  TokenDispatcherType type;
  FlexDispatcherBackend backend = FlexDispatcherBackend::kDeepEp;
  bool moe_permute_fusion = false;

  bool is_flex() const { return type == TokenDispatcherType::kFlex; }
  bool is_deepep_family() const {
    return is_flex() &&
           (backend == FlexDispatcherBackend::kDeepEp || backend == FlexDispatcherBackend::kDeepEpV2);
  }
  /// Whether it goes by the routing map, instead of the largest probabilities.
  bool reads_map() const { return !is_flex() || backend == FlexDispatcherBackend::kHybridEp; }
};

inline const std::vector<DispatcherKind>& all_dispatchers() {
  using Type = TokenDispatcherType;
  using Backend = FlexDispatcherBackend;
  static const std::vector<DispatcherKind> all = {
      {"allgather", Type::kAllGather},
      {"alltoall", Type::kAllToAll},
      {"deepep", Type::kFlex, Backend::kDeepEp},
      {"deepepv2", Type::kFlex, Backend::kDeepEpV2},
      {"deepepv2 fused", Type::kFlex, Backend::kDeepEpV2, true},
      {"hybridep", Type::kFlex, Backend::kHybridEp},
      {"ncclep", Type::kFlex, Backend::kNcclEp},
  };
  return all;
}

/// 8 experts, top 2, hidden 4.
inline MoeConfig config_of(const Grid& grid, const DispatcherKind& kind) {
  MoeConfig config{.hidden_size = 4,
                   .num_moe_experts = 8,
                   .moe_ffn_hidden_size = 8,
                   .expert_model_parallel_size = grid.ep,
                   .expert_tensor_parallel_size = grid.tp,
                   .moe_token_dispatcher_type = kind.type,
                   .moe_flex_dispatcher_backend = kind.backend,
                   .moe_permute_fusion = kind.moe_permute_fusion,
                   .params_dtype = DType::kFloat64};
  // Room for everybody's tokens on one rank.
  if (kind.backend == FlexDispatcherBackend::kNcclEp)
    config.moe_expert_rank_capacity_factor = grid.tp * grid.ep;
  return config;
}

/// All ranks' tokens, in rank order.
struct Batch {
  std::vector<std::int64_t> num_tokens;  ///< [ranks]
  Matrix hidden;                         ///< [T of all][H]
  Matrix probs;                          ///< [T of all][E]
  Matrix routing_map;                    ///< [T of all][E]

  std::size_t first_token(int rank) const {
    return static_cast<std::size_t>(std::accumulate(num_tokens.begin(), num_tokens.begin() + rank, 0L));
  }
  /// Rank `rank`'s rows of a matrix of all tokens.
  Matrix share(const Matrix& all, int rank) const {
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(first_token(rank));
    return {begin, begin + static_cast<std::ptrdiff_t>(num_tokens[static_cast<std::size_t>(rank)])};
  }
};

/// The k largest of a row, of equal ones the lower columns.
inline std::vector<std::size_t> largest(const Row& row, int k) {
  std::vector<std::size_t> columns(row.size());
  std::iota(columns.begin(), columns.end(), std::size_t{0});
  std::stable_sort(columns.begin(), columns.end(), [&](auto a, auto b) { return row[a] > row[b]; });
  columns.resize(static_cast<std::size_t>(k));
  return columns;
}

/// Ragged, with ranks that have no tokens.
inline std::vector<std::int64_t> ragged_tokens(int num_ranks) {
  std::vector<std::int64_t> counts{5, 0, 3, 7, 1, 0, 4, 2};
  counts.resize(static_cast<std::size_t>(num_ranks));
  return counts;
}

/// What a router makes of random scores: probabilities of the top 2 of 8 experts, all others 0.
inline Batch router_batch(const std::vector<std::int64_t>& num_tokens, std::uint64_t seed) {
  const auto total = static_cast<std::size_t>(std::accumulate(num_tokens.begin(), num_tokens.end(), 0L));
  Batch batch{.num_tokens = num_tokens,
              .hidden = random_matrix(total, 4, seed),
              .probs = Matrix(total, Row(8)),
              .routing_map = Matrix(total, Row(8))};
  const Matrix scores = random_matrix(total, 8, seed + 1);
  for (std::size_t token = 0; token < total; ++token) {
    for (const std::size_t expert : largest(scores[token], 2)) {
      batch.routing_map[token][expert] = 1;
      batch.probs[token][expert] = 2 + scores[token][expert];  // above 0
    }
  }
  return batch;
}

inline Tensor int32_tensor(const Matrix& matrix, std::int64_t num_columns) {
  Tensor tensor = Tensor::empty({static_cast<std::int64_t>(matrix.size()), num_columns}, DType::kInt32);
  auto* out = tensor.data<std::int32_t>();
  for (const Row& row : matrix)
    for (const double value : row) *out++ = static_cast<std::int32_t>(value);
  return tensor;
}

/// What a rank has of a batch.
inline Tokens tokens_of(const Batch& batch, int rank) {
  return {.hidden = reference::to_tensor(batch.share(batch.hidden, rank), 4),
          .probs = reference::to_tensor(batch.share(batch.probs, rank), 8)};
}
inline Tensor map_of(const Batch& batch, int rank) {
  return int32_tensor(batch.share(batch.routing_map, rank), 8);
}

/// What the experts of this rank get of a batch.
inline GroupedTokens run_dispatch(const MoeConfig& config, const Batch& batch,
                                  const std::shared_ptr<ExpertParallelGroup>& group) {
  const auto dispatcher = make_token_dispatcher(config, group);
  const int rank = group->comm().rank();
  const auto local = dispatcher->dispatch_preprocess(tokens_of(batch, rank), map_of(batch, rank));
  return dispatcher->dispatch_postprocess(dispatcher->token_dispatch(local));
}

/// Which experts a token goes to with this dispatcher.
inline std::vector<std::size_t> experts_of(const MoeConfig& config, const DispatcherKind& kind,
                                           const Row& probs, const Row& routing_map) {
  std::vector<std::size_t> experts;
  if (kind.reads_map()) {
    for (std::size_t expert = 0; expert < routing_map.size(); ++expert)
      if (routing_map[expert] != 0) experts.push_back(expert);
    return experts;
  }
  const bool skips_zeros = kind.is_deepep_family() && config.expert_capacity_factor().has_value();
  for (const std::size_t expert : largest(probs, config.moe_router_topk)) {
    const bool is_excluded = config.moe_respect_routing_map && routing_map[expert] == 0;
    if (!is_excluded && !(skips_zeros && probs[expert] == 0)) experts.push_back(expert);
  }
  return experts;
}

/// What an expert does in these tests: its output is scale * prob * row. Every expert and slice has its own
/// scale, and sums of such products are exact in fp64.
inline double scale_of(std::size_t expert, int tp_idx) {
  return 1.0 + static_cast<double>(expert) + 16.0 * tp_idx;
}

struct LayerResult {
  Matrix output;
  Matrix grad_hidden;
  Matrix grad_probs;  ///< [T][E]
};

/// The rule, without ranks: every token once for each of its experts and each of their slices.
inline LayerResult expected_layer(const MoeConfig& config, const DispatcherKind& kind, const Batch& batch,
                                  const Matrix& grad_output) {
  const std::size_t total = batch.hidden.size();
  LayerResult result{.output = Matrix(total, Row(batch.hidden.empty() ? 0 : batch.hidden[0].size())),
                     .grad_hidden = {},
                     .grad_probs = Matrix(total, Row(static_cast<std::size_t>(config.num_moe_experts)))};
  result.grad_hidden = result.output;
  for (std::size_t token = 0; token < total; ++token) {
    for (const std::size_t expert : experts_of(config, kind, batch.probs[token], batch.routing_map[token])) {
      for (int tp_idx = 0; tp_idx < config.expert_tensor_parallel_size; ++tp_idx) {
        const double scale = scale_of(expert, tp_idx), weight = scale * batch.probs[token][expert];
        for (std::size_t i = 0; i < batch.hidden[token].size(); ++i) {
          result.output[token][i] += weight * batch.hidden[token][i];
          result.grad_hidden[token][i] += weight * grad_output[token][i];
          result.grad_probs[token][expert] += scale * batch.hidden[token][i] * grad_output[token][i];
        }
      }
    }
  }
  return result;
}

/// Calls visit(local expert, row) for the rows of a group.
template <typename Visitor>
void for_each_grouped_row(const GroupedTokens& grouped, Visitor&& visit) {
  std::int64_t row = 0;
  for (std::size_t local = 0; local < grouped.tokens_per_expert.size(); ++local)
    for (int i = 0; i < grouped.tokens_per_expert[local]; ++i, ++row) visit(local, row);
}

/// Runs this rank's part of the batch through a dispatcher and the experts above, forward and backward. What
/// experts make of padding (where there is any, what has probability 0) is poison.
inline LayerResult run_layer(const MoeConfig& config, const Batch& batch, const Matrix& grad_output,
                             const std::shared_ptr<ExpertParallelGroup>& group,
                             const AsyncOptions& options = {}) {
  const int rank = group->comm().rank(), tp_idx = rank % config.expert_tensor_parallel_size;
  const int ep_idx = rank / config.expert_tensor_parallel_size;
  const auto first_expert =
      static_cast<std::size_t>(ep_idx) * static_cast<std::size_t>(config.num_local_experts());
  const auto dispatcher = make_token_dispatcher(config, group);

  const auto local = dispatcher->dispatch_preprocess(tokens_of(batch, rank), map_of(batch, rank));
  const auto grouped = dispatcher->dispatch_postprocess(dispatcher->token_dispatch(local, options));

  const auto is_padding = [&](std::int64_t row) {
    return config.router_padding_for_quantization() && grouped.tokens.probs.data<double>()[row] == 0;
  };
  const auto row_of = [&](const Tensor& rows, std::int64_t row) { return rows.rows(row, row + 1); };
  constexpr double poison = std::numeric_limits<double>::quiet_NaN();

  const Tensor expert_output = dispatcher->empty_expert_rows();
  for_each_grouped_row(grouped, [&](auto expert, auto row) {
    const double weight =
        scale_of(first_expert + expert, tp_idx) * grouped.tokens.probs.template data<double>()[row];
    const auto in = row_of(grouped.tokens.hidden, row).template values<double>();
    const auto out = row_of(expert_output, row).template values<double>();
    std::transform(in.begin(), in.end(), out.begin(),
                   [&](double x) { return is_padding(row) ? poison : weight * x; });
  });
  const Tensor output = dispatcher->combine_postprocess(
      dispatcher->token_combine(dispatcher->combine_preprocess(expert_output), options));

  const Tensor grad = reference::to_tensor(batch.share(grad_output, rank), 4);
  const Tensor grad_rows = dispatcher->combine_preprocess_backward(
      dispatcher->token_combine_backward(dispatcher->combine_postprocess_backward(grad)));
  const Tensor grad_hidden = dispatcher->empty_expert_rows();
  const Tensor grad_probs = Tensor::empty({grad_rows.size(0)}, DType::kFloat64);
  for_each_grouped_row(grouped, [&](auto expert, auto row) {
    const double scale = scale_of(first_expert + expert, tp_idx);
    const double weight = scale * grouped.tokens.probs.template data<double>()[row];
    const auto x = row_of(grouped.tokens.hidden, row).template values<double>();
    const auto g = row_of(grad_rows, row).template values<double>();
    const auto out = row_of(grad_hidden, row).template values<double>();
    std::transform(g.begin(), g.end(), out.begin(),
                   [&](double value) { return is_padding(row) ? poison : weight * value; });
    grad_probs.data<double>()[row] =
        is_padding(row) ? poison : scale * std::inner_product(x.begin(), x.end(), g.begin(), 0.0);
  });
  const auto grads = dispatcher->dispatch_preprocess_backward(dispatcher->token_dispatch_backward(
      dispatcher->dispatch_postprocess_backward({.hidden = grad_hidden, .probs = grad_probs})));
  return {
      .output = rows_of(output), .grad_hidden = rows_of(grads.hidden), .grad_probs = rows_of(grads.probs)};
}

/// run_layer, compared: what differs first, or "".
inline std::string check_layer(const MoeConfig& config, const DispatcherKind& kind, const Batch& batch,
                               const std::shared_ptr<ExpertParallelGroup>& group,
                               const AsyncOptions& options = {}) {
  const int rank = group->comm().rank();
  const Matrix grad_output = random_matrix(batch.hidden.size(), 4, 99);
  const LayerResult expected = expected_layer(config, kind, batch, grad_output);
  const LayerResult got = run_layer(config, batch, grad_output, group, options);
  const auto compare = [&](const char* what, const Matrix& all, const Matrix& mine) -> std::string {
    const auto same = near(batch.share(all, rank), mine, 0);
    return same ? "" : fmt::format("{}, rank {}, {}: {}", kind.name, rank, what, same.message());
  };
  return compare("output", expected.output, got.output) +
         compare("gradient of hidden", expected.grad_hidden, got.grad_hidden) +
         compare("gradient of probs", expected.grad_probs, got.grad_probs);
}

}  // namespace flexep::moe::testing
