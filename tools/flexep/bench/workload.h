// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "bench/bench_options.h"

namespace flexep::tool {

/// Where a received row comes from. In the compact layout `column` is 0.
struct RowOrigin {
  int src_rank = 0;
  int token = 0;
  int column = 0;
};

/// Where a token's row goes: row `row` of what `rank` receives.
struct RowPlace {
  int rank = 0;
  std::int64_t row = 0;
};

/// All ranks' routing, and the placement that follows from it by the definition of the layouts: known to
/// every rank without a word, so that a rank can check what it received. Written apart from the library on
/// purpose.
class Workload {
 public:
  explicit Workload(const BenchOptions& options) : Workload(options, options.seed) {}
  /// With other ids than options.seed gives.
  Workload(const BenchOptions& options, std::uint64_t seed);

  /// [T, K] of a rank.
  std::span<const std::int64_t> topk_idx(int rank) const;
  /// The weight of pair `pair`, counted over [T, K], of a rank; every pair of the job has another one, as far
  /// as fp32 goes.
  float topk_weight(int rank, std::size_t pair) const {
    return static_cast<float>(1 + static_cast<std::size_t>(rank) * topk_idx(rank).size() + pair);
  }

  /// The rows that `rank` receives, in order.
  const std::vector<RowOrigin>& received_by(int rank) const {
    return received_[static_cast<std::size_t>(rank)];
  }
  /// The same for the compact layout, whatever the layout is.
  std::vector<RowOrigin> received_once_by(int rank) const;
  /// The places of every row of `rank`, by token.
  std::vector<std::vector<RowPlace>> places_of(int rank) const;

  int owner_of(std::int64_t expert) const { return static_cast<int>(expert / num_local_experts_); }
  std::int64_t num_local_experts() const { return num_local_experts_; }

 private:
  void draw_routing(double zipf_exponent, std::uint64_t seed);
  bool goes_to(int src_rank, int token, int rank) const;
  std::vector<RowOrigin> received_per_pair_by(int rank) const;

  int num_tokens(int rank) const { return num_tokens_[static_cast<std::size_t>(rank)]; }

  int num_ranks_;
  std::vector<int> num_tokens_;  ///< by rank
  int num_topk_;
  int num_experts_;
  std::int64_t num_local_experts_;
  std::vector<std::vector<std::int64_t>> topk_idx_;
  std::vector<std::vector<RowOrigin>> received_;
};

}  // namespace flexep::tool
