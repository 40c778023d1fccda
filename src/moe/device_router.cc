// SPDX-License-Identifier: Apache-2.0
#include "moe/device_router.h"

namespace flexep::moe {
namespace {

// What a warp holds of a row, and ranks of groups.
constexpr int kMaxExperts = 1024, kMaxGroups = 32;

bool chooses_by_scores(const MoeConfig& config) {
  return config.moe_router_load_balancing_type != RouterLoadBalancing::kSinkhorn &&
         !config.moe_router_force_load_balancing && !config.moe_router_force_biased &&
         !config.expert_capacity_factor();
}

// Whether what is sent follows from the probabilities alone.
bool sends_top_probs(const MoeConfig& config) {
  return config.moe_token_dispatcher_type == TokenDispatcherType::kFlex &&
         config.flex_dispatcher_backend() == FlexDispatcherBackend::kDeepEpV2 && config.moe_permute_fusion &&
         config.expert_tensor_parallel_size == 1 && !config.moe_respect_routing_map;
}

}  // namespace

RoutingRules routing_rules(const MoeConfig& config) {
  return {.score = score_rule(config),
          .topk = config.moe_router_topk,
          .scaling_factor = config.moe_router_topk_scaling_factor,
          .num_groups = config.moe_router_num_groups.value_or(1),
          .group_topk = config.moe_router_group_topk.value_or(1)};
}

bool routes_on_device(const MoeConfig& config) {
  return chooses_by_scores(config) && sends_top_probs(config) && config.num_moe_experts <= kMaxExperts &&
         config.moe_router_num_groups.value_or(1) <= kMaxGroups;
}

}  // namespace flexep::moe
