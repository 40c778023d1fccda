// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/routing_shape.h"

namespace flexep {

/// How much one source rank sends: what ranks tell each other before rows move.
/// One block of R + E ints, so that it travels as it is.
class RoutingCounts {
 public:
  explicit RoutingCounts(const RoutingShape& shape)
      : num_ranks_(static_cast<std::size_t>(shape.num_ranks)),
        counts_(num_ranks_ + static_cast<std::size_t>(shape.num_experts)) {}

  /// [R], tokens that go to each rank, a token with several experts there counted once.
  std::span<std::int32_t> tokens_per_rank() { return std::span(counts_).first(num_ranks_); }
  /// [E], (token, expert) pairs.
  std::span<std::int32_t> pairs_per_expert() { return std::span(counts_).subspan(num_ranks_); }
  /// Both, as they travel.
  std::span<const std::int32_t> block() const { return counts_; }

 private:
  std::size_t num_ranks_;
  std::vector<std::int32_t> counts_;
};

/// Counts what `topk_idx` sends, and validates the ids as it reads them.
/// @param rank  this rank, for the error.
/// @throws InvalidArgument that names rank, token, column and value of an id outside [-1, E) or one that a
/// row repeats. Cost: one pass over the ids.
RoutingCounts count_routing(const TopkIds& topk_idx, const RoutingShape& shape, int rank);

}  // namespace flexep
