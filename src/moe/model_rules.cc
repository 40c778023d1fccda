// SPDX-License-Identifier: Apache-2.0
#include "moe/config_rules.h"
#include "moe/option_checks.h"

namespace flexep::moe {
namespace {

void validate_sizes(const MoeConfig& config) {
  require_at_least(1, "hidden_size", config.hidden_size);
  require_at_least(1, "num_moe_experts", config.num_moe_experts);
  require_at_least(1, "moe_ffn_hidden_size", config.moe_ffn_hidden_size);
  require_at_least(1, "moe_latent_size", config.moe_latent_size);
  require_at_least(1, "expert_model_parallel_size", config.expert_model_parallel_size);
  require_at_least(1, "expert_tensor_parallel_size", config.expert_tensor_parallel_size);
  require_argument(config.num_moe_experts % config.expert_model_parallel_size == 0, "num_moe_experts",
                   "num_moe_experts {} must be a multiple of expert_model_parallel_size {}",
                   config.num_moe_experts, config.expert_model_parallel_size);
  require_argument(config.moe_ffn_hidden_size % config.expert_tensor_parallel_size == 0,
                   "moe_ffn_hidden_size",
                   "moe_ffn_hidden_size {} must be a multiple of expert_tensor_parallel_size {}",
                   config.moe_ffn_hidden_size, config.expert_tensor_parallel_size);
}

void validate_shared_experts(const MoeConfig& config) {
  require_at_least(1, "moe_shared_expert_intermediate_size", config.moe_shared_expert_intermediate_size);
  const bool has_shared_expert = config.moe_shared_expert_intermediate_size.has_value();
  require_argument(has_shared_expert || !config.moe_shared_expert_gate, "moe_shared_expert_gate",
                   "moe_shared_expert_gate needs moe_shared_expert_intermediate_size");
  require_argument(has_shared_expert || !config.moe_shared_expert_overlap, "moe_shared_expert_overlap",
                   "moe_shared_expert_overlap needs moe_shared_expert_intermediate_size");
  require_argument(!config.moe_shared_expert_overlap ||
                       config.moe_token_dispatcher_type != TokenDispatcherType::kAllGather,
                   "moe_shared_expert_overlap",
                   "moe_shared_expert_overlap needs moe_token_dispatcher_type alltoall or flex");
  require_argument(!config.moe_shared_expert_overlap || !config.overlap_moe_expert_parallel_comm,
                   "moe_shared_expert_overlap",
                   "moe_shared_expert_overlap and overlap_moe_expert_parallel_comm exclude each other");
}

void validate_experts(const MoeConfig& config) {
  require_argument(!config.moe_apply_probs_on_input || config.moe_router_topk == 1,
                   "moe_apply_probs_on_input", "moe_apply_probs_on_input needs moe_router_topk 1, not {}",
                   config.moe_router_topk);
  require_floating("params_dtype", config.params_dtype);
  require_not_negative("init_method_std", config.init_method_std);
}

}  // namespace

void check_model_options(const MoeConfig& config) {
  validate_sizes(config);
  validate_shared_experts(config);
  validate_experts(config);
}

}  // namespace flexep::moe
