// SPDX-License-Identifier: Apache-2.0
#include "bench/workload.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

namespace flexep::tool {

Workload::Workload(const BenchOptions& options, std::uint64_t seed)
    : num_ranks_(options.num_ranks),
      num_topk_(options.num_topk),
      num_experts_(options.num_experts),
      num_local_experts_(options.num_experts / options.num_ranks) {
  for (int rank = 0; rank < num_ranks_; ++rank) num_tokens_.push_back(options.num_tokens_of(rank));
  draw_routing(options.zipf_exponent(), seed);
  for (int rank = 0; rank < num_ranks_; ++rank) {
    received_.push_back(options.do_expand() ? received_per_pair_by(rank) : received_once_by(rank));
  }
}

/// Each token draws num_topk distinct experts, expert e with weight (e + 1)^-exponent: the largest of log
/// weight plus Gumbel noise.
void Workload::draw_routing(double zipf_exponent, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::extreme_value_distribution<double> gumbel;
  std::vector<double> keys(static_cast<std::size_t>(num_experts_));
  std::vector<std::int64_t> experts(keys.size());
  const auto larger_key = [&](std::int64_t a, std::int64_t b) {
    return keys[static_cast<std::size_t>(a)] > keys[static_cast<std::size_t>(b)];
  };
  for (int rank = 0; rank < num_ranks_; ++rank) {
    auto& ids = topk_idx_.emplace_back();
    for (int token = 0; token < num_tokens(rank); ++token) {
      for (std::size_t e = 0; e < keys.size(); ++e) {
        keys[e] = gumbel(random) - zipf_exponent * std::log(static_cast<double>(e + 1));
      }
      std::iota(experts.begin(), experts.end(), 0);
      std::partial_sort(experts.begin(), experts.begin() + num_topk_, experts.end(), larger_key);
      ids.insert(ids.end(), experts.begin(), experts.begin() + num_topk_);
    }
  }
}

std::span<const std::int64_t> Workload::topk_idx(int rank) const {
  return topk_idx_[static_cast<std::size_t>(rank)];
}

bool Workload::goes_to(int src_rank, int token, int rank) const {
  const auto ids = topk_idx(src_rank).subspan(static_cast<std::size_t>(token * num_topk_),
                                              static_cast<std::size_t>(num_topk_));
  return std::any_of(ids.begin(), ids.end(), [&](std::int64_t expert) { return owner_of(expert) == rank; });
}

std::vector<RowOrigin> Workload::received_once_by(int rank) const {
  std::vector<RowOrigin> rows;
  for (int src_rank = 0; src_rank < num_ranks_; ++src_rank) {
    for (int token = 0; token < num_tokens(src_rank); ++token) {
      if (goes_to(src_rank, token, rank)) rows.push_back({src_rank, token, 0});
    }
  }
  return rows;
}

std::vector<RowOrigin> Workload::received_per_pair_by(int rank) const {
  std::vector<std::vector<RowOrigin>> by_expert(static_cast<std::size_t>(num_local_experts_));
  for (int src_rank = 0; src_rank < num_ranks_; ++src_rank) {
    const auto ids = topk_idx(src_rank);
    for (std::size_t pair = 0; pair < ids.size(); ++pair) {
      if (owner_of(ids[pair]) != rank) continue;
      const auto expert = static_cast<std::size_t>(ids[pair] - rank * num_local_experts_);
      const auto num_topk = static_cast<std::size_t>(num_topk_);
      by_expert[expert].push_back(
          {src_rank, static_cast<int>(pair / num_topk), static_cast<int>(pair % num_topk)});
    }
  }
  std::vector<RowOrigin> rows;
  for (const auto& expert_rows : by_expert) rows.insert(rows.end(), expert_rows.begin(), expert_rows.end());
  return rows;
}

std::vector<std::vector<RowPlace>> Workload::places_of(int rank) const {
  std::vector<std::vector<RowPlace>> places(static_cast<std::size_t>(num_tokens(rank)));
  for (int destination = 0; destination < num_ranks_; ++destination) {
    const auto& rows = received_by(destination);
    for (std::size_t row = 0; row < rows.size(); ++row) {
      if (rows[row].src_rank != rank) continue;
      places[static_cast<std::size_t>(rows[row].token)].push_back(
          {destination, static_cast<std::int64_t>(row)});
    }
  }
  return places;
}

}  // namespace flexep::tool
