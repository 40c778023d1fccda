// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "routing/count_summary.h"
#include "routing/routing_shape.h"

namespace flexep {

/// Where every (token, column) pair of one source rank lands: a pure function of its ids and of all ranks'
/// counts. Arrays are [T, K] unless they say otherwise; where `owner` is -1 the pair is not routed and its
/// other entries mean nothing.
struct SendPlan {
  int num_tokens = 0;
  int num_topk = 0;
  std::vector<std::int32_t> owner;       ///< rank that owns the column's expert, or -1
  std::vector<std::int32_t> token_slot;  ///< row of the token in the owner's compact order
  std::vector<std::int32_t>
      row;  ///< row of the owner's recv.x that holds the pair; token_slot in the compact layout
  /// The pairs that are their token's last with their owner and stand for it ("master columns"): one for each
  /// rank that a token goes to, ascending; token t's begin at master_begin[t].
  std::vector<std::int64_t> masters;
  std::vector<std::int64_t> master_begin;  ///< [T + 1]

  std::vector<std::int32_t> num_tokens_per_rank;  ///< [R], tokens that go to each rank
  std::vector<std::int32_t> num_pairs_per_rank;   ///< [R], pairs whose expert each rank owns
  std::vector<std::int32_t> num_rows_per_rank;    ///< [R], rows that go to each rank

  std::size_t pair(int token, int column) const {
    return static_cast<std::size_t>(token) * static_cast<std::size_t>(num_topk) +
           static_cast<std::size_t>(column);
  }
  bool is_routed(std::size_t pair) const { return owner[pair] >= 0; }
  std::span<const std::int64_t> masters_of(int token) const {
    const auto t = static_cast<std::size_t>(token);
    return std::span(masters).subspan(static_cast<std::size_t>(master_begin[t]),
                                      static_cast<std::size_t>(master_begin[t + 1] - master_begin[t]));
  }
};

/// Plans the sending of the rank whose summary `counts` is. `topk_idx` has been validated by count_routing,
/// which gave counts.own. Cost: one pass over the ids, and O(R + E).
SendPlan plan_send(const TopkIds& topk_idx, const CountSummary& counts, const RoutingShape& shape);

}  // namespace flexep
