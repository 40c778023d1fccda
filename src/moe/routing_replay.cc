// SPDX-License-Identifier: Apache-2.0
#include "moe/routing_replay.h"

#include <algorithm>

#include "common/check.h"

namespace flexep::moe {

void check_replay(const MoeConfig& config, std::int64_t num_tokens, const Tensor& topk_idx) {
  if (!topk_idx) return;
  require_argument(config.moe_enable_routing_replay, "replay_topk_idx",
                   "replay_topk_idx needs moe_enable_routing_replay");
  const Shape expected{num_tokens, config.moe_router_topk};
  require_argument(topk_idx.shape() == expected && topk_idx.dtype() == DType::kInt64, "replay_topk_idx",
                   "replay_topk_idx must be int64 {}, not {} {}", expected, name_of(topk_idx.dtype()),
                   topk_idx.shape());
  const Tensor dense = topk_idx.contiguous();
  const auto experts = dense.values<std::int64_t>();
  const auto bad = std::find_if(experts.begin(), experts.end(),
                                [&](auto e) { return e < 0 || e >= config.num_moe_experts; });
  require_argument(bad == experts.end(), "replay_topk_idx",
                   "replay_topk_idx must name experts in [0, {}), not {}", config.num_moe_experts,
                   bad == experts.end() ? 0 : *bad);
}

}  // namespace flexep::moe
