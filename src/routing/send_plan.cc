// SPDX-License-Identifier: Apache-2.0
#include "routing/send_plan.h"

#include "common/math.h"

namespace flexep {
namespace {

/// The next free row at each destination for this source: begins where the sources before it end.
struct Cursors {
  std::vector<std::int32_t> token_slot;  ///< [R]
  std::vector<std::int32_t> expert_row;  ///< [E], in the expanded layout of the expert's owner
};

Cursors first_rows(AllCounts counts, const RoutingShape& shape, int rank) {
  const auto num_ranks = static_cast<std::size_t>(shape.num_ranks);
  const auto num_experts = static_cast<std::size_t>(shape.num_experts);
  Cursors cursors{std::vector<std::int32_t>(num_ranks), std::vector<std::int32_t>(num_experts)};
  for (std::size_t source = 0; source < static_cast<std::size_t>(rank); ++source) {
    for (std::size_t r = 0; r < num_ranks; ++r) cursors.token_slot[r] += counts[source][r];
    for (std::size_t e = 0; e < num_experts; ++e) cursors.expert_row[e] += counts[source][num_ranks + e];
  }
  std::int32_t start = 0;
  for (std::size_t e = 0; e < num_experts; ++e) {
    if (e % static_cast<std::size_t>(shape.num_local_experts()) == 0) start = 0;
    std::int32_t num_pairs = 0;
    for (const auto source : counts) num_pairs += source[num_ranks + e];
    cursors.expert_row[e] += start;
    start += align_up(num_pairs, shape.expert_alignment);
  }
  return cursors;
}

}  // namespace

SendPlan plan_send(const TopkIds& topk_idx, AllCounts counts, const RoutingShape& shape, int rank) {
  SendPlan plan{.num_tokens = topk_idx.num_tokens, .num_topk = topk_idx.num_topk};
  const std::size_t num_pairs = topk_idx.ids.size();
  plan.owner.assign(num_pairs, -1);
  plan.token_slot.resize(num_pairs);
  plan.row.resize(num_pairs);
  plan.is_last_of_owner.assign(num_pairs, 0);

  plan.num_tokens_per_rank.assign(static_cast<std::size_t>(shape.num_ranks), 0);
  plan.num_rows_per_rank.assign(static_cast<std::size_t>(shape.num_ranks), 0);

  Cursors cursors = first_rows(counts, shape, rank);
  // Per rank: the last pair that went there. A later column of the same token takes its place as the token's
  // last.
  std::vector<std::int64_t> last_pair(static_cast<std::size_t>(shape.num_ranks), -1);
  for (int token = 0; token < plan.num_tokens; ++token) {
    const auto first_pair = static_cast<std::int64_t>(plan.pair(token, 0));
    for (int column = 0; column < plan.num_topk; ++column) {
      const std::size_t pair = plan.pair(token, column);
      const std::int64_t expert = topk_idx.ids[pair];
      if (expert < 0) continue;
      const int owner = shape.owner_of(expert);
      auto& last = last_pair[static_cast<std::size_t>(owner)];
      const bool token_is_known = last >= first_pair;
      if (!token_is_known) ++plan.num_tokens_per_rank[static_cast<std::size_t>(owner)];
      if (!token_is_known || shape.do_expand) ++plan.num_rows_per_rank[static_cast<std::size_t>(owner)];
      plan.token_slot[pair] = token_is_known ? plan.token_slot[static_cast<std::size_t>(last)]
                                             : cursors.token_slot[static_cast<std::size_t>(owner)]++;
      if (token_is_known) plan.is_last_of_owner[static_cast<std::size_t>(last)] = 0;
      plan.is_last_of_owner[pair] = 1;
      plan.owner[pair] = owner;
      const std::int32_t expert_row = cursors.expert_row[static_cast<std::size_t>(expert)]++;
      plan.row[pair] = shape.do_expand ? expert_row : plan.token_slot[pair];
      last = static_cast<std::int64_t>(pair);
    }
  }
  return plan;
}

}  // namespace flexep
