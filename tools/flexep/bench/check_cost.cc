// SPDX-License-Identifier: Apache-2.0
#include "bench/check_cost.h"

#include "core/requests.h"
#include "routing/routing_counts.h"

namespace flexep::tool {

void CheckCost::enqueue() {
  const RankContext context{.rank = rank_.comm.rank(), .num_ranks = rank_.comm.num_ranks()};
  const DispatchArgs args = rank_.fresh_dispatch();
  const DispatchRequest request = resolve_dispatch(args, context);
  const TopkIds ids{.ids = args.topk_idx.values<std::int64_t>(),
                    .num_tokens = request.num_tokens,
                    .num_topk = request.shape.num_topk};
  const RoutingCounts counts = count_routing(ids, request.shape, context.rank);
  counts_.assign(counts.block().begin(), counts.block().end());
}

Finding CheckCost::check() const {
  if (counts_ != count_unchecked()) return "checked and unchecked counts differ";
  return std::nullopt;
}

// As count_routing, without a look at what an id is.
std::vector<std::int32_t> CheckCost::count_unchecked() const {
  const RoutingShape shape{.num_ranks = rank_.options.num_ranks, .num_experts = rank_.options.num_experts};
  std::vector<std::int32_t> counts(static_cast<std::size_t>(shape.num_ranks + shape.num_experts));
  const ExpertOwners owners(shape);
  std::vector<std::int32_t> last_token_of_rank(static_cast<std::size_t>(shape.num_ranks), -1);
  const auto ids = rank_.topk_idx.values<std::int64_t>();
  const auto num_topk = static_cast<std::size_t>(rank_.options.num_topk);
  for (int token = 0; token < rank_.options.num_tokens_of(rank_.comm.rank()); ++token) {
    for (const std::int64_t id : ids.subspan(static_cast<std::size_t>(token) * num_topk, num_topk)) {
      if (id == -1) continue;
      const auto expert = static_cast<std::size_t>(id);
      ++counts[static_cast<std::size_t>(shape.num_ranks) + expert];
      const auto owner = static_cast<std::size_t>(owners[id]);
      counts[owner] += last_token_of_rank[owner] != token;
      last_token_of_rank[owner] = token;
    }
  }
  return counts;
}

}  // namespace flexep::tool
