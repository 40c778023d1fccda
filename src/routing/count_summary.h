// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/routing_shape.h"

namespace flexep {

/// Every rank's RoutingCounts::block(), by rank.
using AllCounts = std::span<const std::span<const std::int32_t>>;

/// All that a rank needs of everybody's counts. Where blocks are summed, entries are those of
/// RoutingCounts::block(): [R] tokens that go to each rank, then [E] pairs of each expert. Sums have 64 bits:
/// whether rows fit 31 is for whoever plans the receiving of them.
struct CountSummary {
  std::vector<std::int64_t> before;    ///< [R + E], sums over the ranks below this one
  std::vector<std::int64_t> total;     ///< [R + E], sums over all ranks
  std::vector<std::int32_t> received;  ///< [R], tokens that each rank sends to this one
  std::vector<std::int32_t> own;       ///< [R + E], this rank's

  std::int64_t num_tokens_before(int rank) const { return before[static_cast<std::size_t>(rank)]; }
  std::int64_t num_tokens_to(int rank) const { return total[static_cast<std::size_t>(rank)]; }
  /// [El], pairs of each expert of `rank`.
  std::span<const std::int64_t> pairs_of(int rank, const RoutingShape& shape) const {
    return experts_of(total, rank, shape);
  }
  std::span<const std::int64_t> pairs_before(int rank, const RoutingShape& shape) const {
    return experts_of(before, rank, shape);
  }

 private:
  static std::span<const std::int64_t> experts_of(std::span<const std::int64_t> block, int rank,
                                                  const RoutingShape& shape) {
    const int num_local_experts = shape.num_local_experts();
    return block.subspan(static_cast<std::size_t>(shape.num_ranks + rank * num_local_experts),
                         static_cast<std::size_t>(num_local_experts));
  }
};

/// For a rank that has everybody's counts. Cost: one pass over them, O(R * (R + E)).
CountSummary summarise_counts(AllCounts counts, int rank);

}  // namespace flexep
