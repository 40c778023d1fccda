// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

#include "flexep/moe/token_dispatcher.h"
#include "matrices.h"

/// The divisions of a MoE layer over ranks that its tests go through.
namespace flexep::moe::testing {

struct Division {
  int tp;
  int ep;
  bool moe_permute_fusion;
};

inline const std::vector<Division>& all_divisions() {
  static const std::vector<Division> divisions = [] {
    std::vector<Division> all;
    for (const auto& [tp, ep] : {std::pair{1, 1}, {1, 2}, {1, 3}, {1, 4}, {2, 1}, {2, 2}, {4, 1}})
      for (const bool fusion : {false, true}) all.push_back({tp, ep, fusion});
    return all;
  }();
  return divisions;
}

inline std::string name_of(const Division& division) {
  return fmt::format("Tp{}Ep{}{}", division.tp, division.ep,
                     division.moe_permute_fusion ? "Fused" : "Unfused");
}

inline MoeConfig config_of(const Division& division) {
  return {.hidden_size = 4,
          .num_moe_experts = 12,
          .moe_ffn_hidden_size = 8,
          .expert_model_parallel_size = division.ep,
          .expert_tensor_parallel_size = division.tp,
          .moe_router_topk = 3,
          .moe_router_dtype = DType::kFloat64,
          .moe_token_dispatcher_type = TokenDispatcherType::kFlex,
          .moe_flex_dispatcher_backend = FlexDispatcherBackend::kDeepEpV2,
          .moe_permute_fusion = division.moe_permute_fusion,
          .params_dtype = DType::kFloat64,
          .init_method_std = 0.5};
}

/// Tokens of each rank: ragged, and none on rank 1.
inline std::int64_t num_tokens_of(int rank) {
  return std::vector<std::int64_t>{5, 0, 3, 7}[static_cast<std::size_t>(rank)];
}

inline std::int64_t num_tokens_of_all(int num_ranks) {
  std::int64_t sum = 0;
  for (int rank = 0; rank < num_ranks; ++rank) sum += num_tokens_of(rank);
  return sum;
}

/// Rank `rank`'s rows of a matrix of all ranks' tokens; a copy.
inline Tensor share_of(const Tensor& all, int rank) {
  const std::int64_t begin = num_tokens_of_all(rank);
  return all.rows(begin, begin + num_tokens_of(rank)).clone();
}

inline double inner_product(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.values<double>().size(); ++i)
    sum += a.values<double>()[i] * b.values<double>()[i];
  return sum;
}

inline double sum_over_ranks(Communicator& comm, double mine) {
  comm.all_reduce_sum(std::span(&mine, 1));
  return mine;
}

}  // namespace flexep::moe::testing
