// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moe/config_rules.h"
#include "moe/option_checks.h"

namespace flexep::moe {
namespace {

void validate_topk(const MoeConfig& config) {
  require_argument(1 <= config.moe_router_topk && config.moe_router_topk <= config.num_moe_experts,
                   "moe_router_topk", "moe_router_topk must be in [1, num_moe_experts = {}], not {}",
                   config.num_moe_experts, config.moe_router_topk);
  const bool is_softmax = config.moe_router_score_function == RouterScoreFunction::kSoftmax;
  require_argument(is_softmax || !config.moe_router_pre_softmax, "moe_router_pre_softmax",
                   "moe_router_pre_softmax needs moe_router_score_function softmax");
  // A softmax over one chosen expert is 1 whatever the logits are: the router would have no gradient.
  const bool is_sinkhorn = config.moe_router_load_balancing_type == RouterLoadBalancing::kSinkhorn;
  require_argument(config.moe_router_topk > 1 || !is_softmax || config.moe_router_pre_softmax || is_sinkhorn,
                   "moe_router_topk", "moe_router_topk 1 with softmax needs moe_router_pre_softmax");
}

// Group-limited choice: both numbers, groups of one size, and enough experts in the chosen groups.
void validate_groups(const MoeConfig& config) {
  if (!config.moe_router_num_groups && !config.moe_router_group_topk) return;
  const int num_groups = config.moe_router_num_groups.value_or(0);
  const int group_topk = config.moe_router_group_topk.value_or(0);
  require_argument(num_groups >= 1 && config.num_moe_experts % num_groups == 0, "moe_router_num_groups",
                   "moe_router_num_groups must divide num_moe_experts {}, and moe_router_group_topk needs it",
                   config.num_moe_experts);
  require_argument(
      1 <= group_topk && group_topk <= std::min(num_groups, config.moe_router_topk), "moe_router_group_topk",
      "moe_router_group_topk must be in [1, {}] (moe_router_num_groups {}, moe_router_topk {}), not {}",
      std::min(num_groups, config.moe_router_topk), num_groups, config.moe_router_topk, group_topk);
  require_argument(config.moe_router_topk <= group_topk * (config.num_moe_experts / num_groups),
                   "moe_router_group_topk",
                   "moe_router_group_topk {} groups of {} experts are too few for moe_router_topk {}",
                   group_topk, config.num_moe_experts / num_groups, config.moe_router_topk);
}

void validate_router(const MoeConfig& config) {
  validate_topk(config);
  validate_groups(config);
  require_floating("moe_router_dtype", config.router_dtype());
  require_not_negative("moe_router_topk_scaling_factor", config.moe_router_topk_scaling_factor);
  require_argument(!config.moe_router_enable_expert_bias ||
                       config.moe_router_score_function != RouterScoreFunction::kSoftmax,
                   "moe_router_enable_expert_bias",
                   "moe_router_enable_expert_bias needs moe_router_score_function sigmoid or sqrtsoftplus");
  require_not_negative("moe_router_bias_update_rate", config.moe_router_bias_update_rate);
  const double eps = config.moe_input_jitter_eps.value_or(0);
  require_argument(eps >= 0 && eps < 1, "moe_input_jitter_eps",
                   "moe_input_jitter_eps must be in [0, 1), not {}", eps);
  const double deviation = config.moe_router_force_biased.value_or(0);
  require_argument(std::isfinite(deviation), "moe_router_force_biased",
                   "moe_router_force_biased must be a finite number, not {}", deviation);
}

void validate_balancing(const MoeConfig& config) {
  require_not_negative("moe_aux_loss_coeff", config.moe_aux_loss_coeff);
  require_not_negative("moe_z_loss_coeff", config.moe_z_loss_coeff.value_or(0));
  const bool has_loss = config.moe_router_load_balancing_type != RouterLoadBalancing::kNone &&
                        config.moe_router_load_balancing_type != RouterLoadBalancing::kSinkhorn;
  require_argument(config.moe_aux_loss_coeff == 0 || has_loss, "moe_aux_loss_coeff",
                   "moe_aux_loss_coeff {} needs moe_router_load_balancing_type aux_loss, seq_aux_loss or "
                   "global_aux_loss",
                   config.moe_aux_loss_coeff);
}

void validate_capacity(const MoeConfig& config) {
  const double factor = config.moe_expert_capacity_factor.value_or(0);
  require_argument(std::isfinite(factor), "moe_expert_capacity_factor",
                   "moe_expert_capacity_factor must be a finite number, not {}", factor);
  const bool has_capacity = config.expert_capacity_factor().has_value();
  require_argument(!has_capacity || config.moe_router_load_balancing_type != RouterLoadBalancing::kSinkhorn,
                   "moe_expert_capacity_factor",
                   "moe_expert_capacity_factor needs moe_router_load_balancing_type aux_loss, seq_aux_loss, "
                   "global_aux_loss or none");
  require_argument(has_capacity || !config.moe_pad_expert_input_to_capacity,
                   "moe_pad_expert_input_to_capacity",
                   "moe_pad_expert_input_to_capacity needs moe_expert_capacity_factor");
}

}  // namespace

void check_router_options(const MoeConfig& config) {
  validate_router(config);
  validate_balancing(config);
  validate_capacity(config);
}

}  // namespace flexep::moe
