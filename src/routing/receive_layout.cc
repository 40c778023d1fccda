// SPDX-License-Identifier: Apache-2.0
#include "routing/receive_layout.h"

#include <algorithm>
#include <limits>

#include "common/check.h"
#include "common/math.h"

namespace flexep {
namespace {

std::int32_t require_31_bits(std::int64_t num_rows, int rank) {
  require_argument(num_rows <= std::numeric_limits<std::int32_t>::max(), "topk_idx",
                   "rank {} would receive {} rows, more than 2^31 - 1", rank, num_rows);
  return static_cast<std::int32_t>(num_rows);
}

}  // namespace

ReceiveLayout plan_receive(const CountSummary& counts, const RoutingShape& shape, int rank) {
  const auto num_pairs = counts.pairs_of(rank, shape);
  ReceiveLayout layout;
  layout.psum_num_recv_tokens_per_rank.resize(counts.received.size());
  for (auto* per_expert : {&layout.num_recv_tokens_per_expert, &layout.num_aligned_recv_tokens_per_expert,
                           &layout.expert_start_rows, &layout.psum_num_recv_tokens_per_expert}) {
    per_expert->resize(num_pairs.size());
  }

  // No entry exceeds the totals, so these are checked, in the end, and nothing else.
  std::int64_t num_tokens = 0;
  for (std::size_t source = 0; source < counts.received.size(); ++source) {
    num_tokens += counts.received[source];
    layout.psum_num_recv_tokens_per_rank[source] = static_cast<std::int32_t>(num_tokens);
  }
  std::int64_t start = 0;
  for (std::size_t i = 0; i < num_pairs.size(); ++i) {
    const std::int64_t num_aligned = align_up(num_pairs[i], std::int64_t{shape.expert_alignment});
    layout.num_recv_tokens_per_expert[i] = static_cast<std::int32_t>(num_pairs[i]);
    layout.num_aligned_recv_tokens_per_expert[i] = static_cast<std::int32_t>(num_aligned);
    layout.expert_start_rows[i] = static_cast<std::int32_t>(start);
    layout.psum_num_recv_tokens_per_expert[i] =
        static_cast<std::int32_t>(start + (shape.do_expand ? num_pairs[i] : num_aligned));
    start += num_aligned;
  }
  layout.num_recv_tokens = require_31_bits(num_tokens, rank);
  layout.num_expanded_tokens = require_31_bits(start, rank);
  return layout;
}

ReceiveSize bound_receive_size(const RoutingShape& shape, int num_max_tokens, int max_recv_tokens) {
  const auto limited = [&](std::int64_t num_rows) {
    return max_recv_tokens > 0 ? std::min(num_rows, std::int64_t{max_recv_tokens}) : num_rows;
  };
  // Either layout has a row for each received token, so the limit bounds tokens in both.
  const std::int64_t num_tokens = limited(std::int64_t{shape.num_ranks} * num_max_tokens);
  const int num_local_experts = shape.num_local_experts();
  const std::int64_t alignment = shape.expert_alignment;
  const std::int64_t num_pairs = num_tokens * std::min(shape.num_topk, num_local_experts);
  const std::int64_t num_expanded = align_up(num_pairs + (alignment - 1) * num_local_experts, alignment);
  const std::int64_t num_rows = shape.do_expand ? limited(num_expanded) : num_expanded;
  require_argument(
      std::max(num_tokens, num_rows) <= std::numeric_limits<std::int32_t>::max(), "num_max_tokens_per_rank",
      "{} ranks of at most {} tokens need outputs of {} rows without host sync, more than 2^31 - 1",
      shape.num_ranks, num_max_tokens, std::max(num_tokens, num_rows));
  return {static_cast<int>(num_tokens), static_cast<int>(num_rows)};
}

std::vector<ReceiveSize> plan_receive_sizes(const CountSummary& counts, const RoutingShape& shape) {
  std::vector<ReceiveSize> sizes(static_cast<std::size_t>(shape.num_ranks));
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    std::int64_t num_expanded = 0;
    for (const std::int64_t num_pairs : counts.pairs_of(rank, shape))
      num_expanded += align_up(num_pairs, std::int64_t{shape.expert_alignment});
    sizes[static_cast<std::size_t>(rank)] = {require_31_bits(counts.num_tokens_to(rank), rank),
                                             require_31_bits(num_expanded, rank)};
  }
  return sizes;
}

}  // namespace flexep
