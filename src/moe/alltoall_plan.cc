// SPDX-License-Identifier: Apache-2.0
#include "moe/alltoall_plan.h"

#include <numeric>

namespace flexep::moe {

AllToAllPlan plan_alltoall(const MoeConfig& config, int rank,
                           const std::vector<std::vector<std::int32_t>>& counts) {
  const auto tp = static_cast<std::size_t>(config.expert_tensor_parallel_size);
  const auto ep = static_cast<std::size_t>(config.expert_model_parallel_size);
  const auto num_local_experts = static_cast<std::size_t>(config.num_local_experts());
  const std::size_t me = static_cast<std::size_t>(rank), my_tp_idx = me % tp, my_ep_idx = me / tp;
  // Rows that a rank sends to the experts of an ep_idx.
  const auto num_rows = [&](std::size_t source, std::size_t ep_idx) {
    const auto first = counts[source].begin() + static_cast<std::ptrdiff_t>(ep_idx * num_local_experts);
    return std::accumulate(first, first + static_cast<std::ptrdiff_t>(num_local_experts), 0);
  };

  AllToAllPlan plan;
  for (std::size_t ep_idx = 0; ep_idx < ep; ++ep_idx) {
    plan.num_sent.push_back(num_rows(me, ep_idx));
    plan.num_received.push_back(num_rows(ep_idx * tp + my_tp_idx, my_ep_idx));
  }
  plan.tokens_per_expert.resize(num_local_experts);
  for (std::size_t tp_idx = 0; tp_idx < tp; ++tp_idx) {
    plan.num_gathered.push_back(0);
    for (std::size_t ep_idx = 0; ep_idx < ep; ++ep_idx) {
      const std::size_t source = ep_idx * tp + tp_idx;
      plan.num_gathered.back() += num_rows(source, my_ep_idx);
      for (std::size_t local = 0; local < num_local_experts; ++local) {
        const std::int32_t num_rows_of_chunk = counts[source][my_ep_idx * num_local_experts + local];
        plan.chunks.split_sizes.push_back(num_rows_of_chunk);
        plan.tokens_per_expert[local] += num_rows_of_chunk;
      }
    }
  }
  for (std::size_t local = 0; local < num_local_experts; ++local)
    for (std::size_t source = 0; source < tp * ep; ++source)
      plan.chunks.order.push_back(static_cast<std::int32_t>(source * num_local_experts + local));
  return plan;
}

}  // namespace flexep::moe
