// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "routing/count_summary.h"
#include "routing/output_layout.h"
#include "routing/routing_shape.h"

namespace flexep {

/// What one rank receives, and where: a pure function of all ranks' counts. docs/layouts.md has the picture.
struct ReceiveLayout {
  int num_recv_tokens = 0;                                       ///< M
  int num_expanded_tokens = 0;                                   ///< sum of align(c_i)
  std::vector<std::int32_t> psum_num_recv_tokens_per_rank;       ///< [R], inclusive
  std::vector<std::int32_t> num_recv_tokens_per_expert;          ///< [El], c_i
  std::vector<std::int32_t> num_aligned_recv_tokens_per_expert;  ///< [El], align(c_i)
  std::vector<std::int32_t> expert_start_rows;                   ///< [El], exclusive prefix sum of align(c_i)
  std::vector<std::int32_t> psum_num_recv_tokens_per_expert;     ///< [El], as DispatchHandle defines it

  int num_rows(bool do_expand) const { return do_expand ? num_expanded_tokens : num_recv_tokens; }
};

/// How many rows each rank receives. Cost: O(R + E). @throws InvalidArgument when the rows do not fit 31
/// bits.
std::vector<ReceiveSize> plan_receive_sizes(const CountSummary& counts, const RoutingShape& shape);

/// The most that one rank receives of ranks that send at most `num_max_tokens` tokens each, whatever their
/// routing, when its output may have `max_recv_tokens` rows (0 = no limit). Nobody needs counts to know it.
/// @throws InvalidArgument when the rows do not fit 31 bits.
ReceiveSize bound_receive_size(const RoutingShape& shape, int num_max_tokens, int max_recv_tokens);

/// What `rank` receives. Cost: O(R + El).
/// @throws InvalidArgument when the rows do not fit 31 bits.
ReceiveLayout plan_receive(const CountSummary& counts, const RoutingShape& shape, int rank);

}  // namespace flexep
