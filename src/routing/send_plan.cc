// SPDX-License-Identifier: Apache-2.0
#include "routing/send_plan.h"

#include <numeric>

#include "common/math.h"

namespace flexep {
namespace {

/// What a source knows of one destination while it goes through its tokens.
struct Destination {
  std::int32_t next_slot = 0;   ///< of the next token that goes there
  std::int64_t last_pair = -1;  ///< the last pair that went there
};

/// [R]. This source's tokens begin where those of the sources before it end.
std::vector<Destination> first_slots(const CountSummary& counts, const RoutingShape& shape) {
  std::vector<Destination> destinations(static_cast<std::size_t>(shape.num_ranks));
  for (int rank = 0; rank < shape.num_ranks; ++rank)
    destinations[static_cast<std::size_t>(rank)].next_slot =
        static_cast<std::int32_t>(counts.num_tokens_before(rank));
  return destinations;
}

/// [E], the row of this source's first pair in the expanded layout of the expert's owner.
std::vector<std::int32_t> first_expert_rows(const CountSummary& counts, const RoutingShape& shape) {
  std::vector<std::int32_t> rows;
  rows.reserve(static_cast<std::size_t>(shape.num_experts));
  for (int rank = 0; rank < shape.num_ranks; ++rank) {
    const auto num_pairs = counts.pairs_of(rank, shape);
    const auto num_before = counts.pairs_before(rank, shape);
    std::int64_t start = 0;
    for (std::size_t i = 0; i < num_pairs.size(); ++i) {
      rows.push_back(static_cast<std::int32_t>(start + num_before[i]));
      start += align_up(num_pairs[i], std::int64_t{shape.expert_alignment});
    }
  }
  return rows;
}

/// The totals, which this rank's counts hold already.
void count_rows(std::span<const std::int32_t> counts, const RoutingShape& shape, SendPlan& plan) {
  const auto num_ranks = static_cast<std::size_t>(shape.num_ranks);
  plan.num_tokens_per_rank.assign(counts.begin(), counts.begin() + shape.num_ranks);
  plan.num_pairs_per_rank.resize(num_ranks);
  const auto pairs_per_expert = counts.subspan(num_ranks);
  const auto num_local_experts = static_cast<std::size_t>(shape.num_local_experts());
  for (std::size_t r = 0; r < num_ranks; ++r) {
    const auto local = pairs_per_expert.subspan(r * num_local_experts, num_local_experts);
    plan.num_pairs_per_rank[r] = std::accumulate(local.begin(), local.end(), 0);
  }
  plan.num_rows_per_rank = shape.do_expand ? plan.num_pairs_per_rank : plan.num_tokens_per_rank;
}

/// The pairs [begin, end) of a token have been placed: adds its masters to the `num_masters` of tokens before
/// it.
/// @return the number with them.
std::size_t add_masters(std::int64_t begin, std::int64_t end, const std::vector<Destination>& destinations,
                        std::size_t num_masters, SendPlan& plan) {
  for (auto pair = begin; pair < end; ++pair) {
    const auto i = static_cast<std::size_t>(pair);
    if (!plan.is_routed(i)) continue;
    // Written first, and kept if it is one.
    plan.masters[num_masters] = pair;
    num_masters += destinations[static_cast<std::size_t>(plan.owner[i])].last_pair == pair;
  }
  return num_masters;
}

}  // namespace

SendPlan plan_send(const TopkIds& topk_idx, const CountSummary& counts, const RoutingShape& shape) {
  SendPlan plan{.num_tokens = topk_idx.num_tokens, .num_topk = topk_idx.num_topk};
  const std::size_t num_pairs = topk_idx.ids.size();
  plan.owner.assign(num_pairs, -1);
  plan.token_slot.resize(num_pairs);
  plan.row.resize(num_pairs);
  count_rows(counts.own, shape, plan);
  const auto& num_tokens_per_rank = plan.num_tokens_per_rank;
  const auto total = std::accumulate(num_tokens_per_rank.begin(), num_tokens_per_rank.end(), std::size_t{0});
  plan.masters.resize(total + 1);  // add_masters writes before it knows
  plan.master_begin.reserve(static_cast<std::size_t>(plan.num_tokens) + 1);
  plan.master_begin.push_back(0);

  std::vector<Destination> destinations = first_slots(counts, shape);
  std::vector<std::int32_t> expert_row;  // the next one's of each expert; only the expanded layout has them
  if (shape.do_expand) expert_row = first_expert_rows(counts, shape);
  const ExpertOwners owners(shape);
  std::size_t num_masters = 0;

  // No branch depends on where a token goes: that is random, and a misprediction costs more than all the
  // rest.
  for (int token = 0; token < plan.num_tokens; ++token) {
    const auto begin = static_cast<std::int64_t>(plan.pair(token, 0));
    const auto end = begin + plan.num_topk;
    for (auto pair = begin; pair < end; ++pair) {
      const auto i = static_cast<std::size_t>(pair);
      const std::int64_t expert = topk_idx.ids[i];
      if (expert < 0) continue;
      const std::int32_t owner = owners[expert];
      Destination& destination = destinations[static_cast<std::size_t>(owner)];
      const bool is_first_of_owner = destination.last_pair < begin;
      destination.next_slot += is_first_of_owner;
      destination.last_pair = pair;
      plan.owner[i] = owner;
      plan.token_slot[i] = destination.next_slot - 1;
      plan.row[i] = shape.do_expand ? expert_row[static_cast<std::size_t>(expert)]++ : plan.token_slot[i];
    }
    num_masters = add_masters(begin, end, destinations, num_masters, plan);
    plan.master_begin.push_back(static_cast<std::int64_t>(num_masters));
  }
  plan.masters.pop_back();
  return plan;
}

}  // namespace flexep
