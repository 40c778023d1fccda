// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "flexep/moe/moe_config.h"

namespace flexep::moe {
namespace {

void require_at_least(int minimum, const char* name, int value) {
  require_argument(value >= minimum, name, "{} must be at least {}, not {}", name, minimum, value);
}

void require_at_least(int minimum, const char* name, std::optional<int> value) {
  if (value) require_at_least(minimum, name, *value);
}

void require_not_negative(const char* name, double value) {
  require_argument(std::isfinite(value) && value >= 0, name, "{} must be a number of at least 0, not {}",
                   name, value);
}

void require_floating(const char* name, DType dtype) {
  require_argument(dtype == DType::kFloat32 || dtype == DType::kFloat64, name,
                   "{} must be fp32 or fp64, not {}", name, name_of(dtype));
}

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

bool is_deepep_family(FlexDispatcherBackend backend) {
  return backend == FlexDispatcherBackend::kDeepEp || backend == FlexDispatcherBackend::kDeepEpV2;
}

void validate_dispatcher_type(const MoeConfig& config) {
  const bool is_flex = config.moe_token_dispatcher_type == TokenDispatcherType::kFlex;
  const bool is_allgather = config.moe_token_dispatcher_type == TokenDispatcherType::kAllGather;
  require_argument(!is_allgather || !config.variable_seq_lengths, "variable_seq_lengths",
                   "variable_seq_lengths needs moe_token_dispatcher_type alltoall or flex");
  require_argument(!is_allgather || !config.overlap_moe_expert_parallel_comm,
                   "overlap_moe_expert_parallel_comm",
                   "overlap_moe_expert_parallel_comm needs moe_token_dispatcher_type alltoall or flex");
  require_argument(is_flex || !config.moe_enable_deepep, "moe_enable_deepep",
                   "moe_enable_deepep needs moe_token_dispatcher_type flex");
  require_argument(
      !config.moe_enable_deepep || config.moe_flex_dispatcher_backend == FlexDispatcherBackend::kDeepEp ||
          config.moe_flex_dispatcher_backend == FlexDispatcherBackend::kNcclEp,
      "moe_enable_deepep", "moe_enable_deepep contradicts a moe_flex_dispatcher_backend other than deepep");
  require_argument(is_flex || config.moe_flex_dispatcher_backend != FlexDispatcherBackend::kNcclEp,
                   "moe_flex_dispatcher_backend",
                   "moe_flex_dispatcher_backend ncclep needs moe_token_dispatcher_type flex");
  require_argument(
      !config.moe_pad_expert_input_to_capacity || !is_flex ||
          !is_deepep_family(config.flex_dispatcher_backend()),
      "moe_pad_expert_input_to_capacity",
      "moe_pad_expert_input_to_capacity is not for moe_flex_dispatcher_backend deepep and deepepv2");
}

void validate_rank_capacity(const MoeConfig& config) {
  const bool is_flex = config.moe_token_dispatcher_type == TokenDispatcherType::kFlex;
  const auto backend = config.flex_dispatcher_backend();
  const auto factor = config.moe_expert_rank_capacity_factor;
  if (factor) {
    require_argument(is_flex && !is_deepep_family(backend), "moe_expert_rank_capacity_factor",
                     "moe_expert_rank_capacity_factor needs moe_flex_dispatcher_backend hybridep or ncclep");
    require_argument(std::isfinite(*factor) && *factor > 0, "moe_expert_rank_capacity_factor",
                     "moe_expert_rank_capacity_factor must be a number above 0, not {}", *factor);
    require_argument(backend != FlexDispatcherBackend::kHybridEp || config.use_transformer_engine_op_fuser,
                     "moe_expert_rank_capacity_factor",
                     "moe_expert_rank_capacity_factor with hybridep needs use_transformer_engine_op_fuser");
  }
  require_argument(factor || !is_flex || backend != FlexDispatcherBackend::kNcclEp,
                   "moe_expert_rank_capacity_factor",
                   "moe_flex_dispatcher_backend ncclep needs moe_expert_rank_capacity_factor");
  require_argument(factor || !config.moe_paged_stash, "moe_paged_stash",
                   "moe_paged_stash needs moe_expert_rank_capacity_factor");
}

// The unified option and the two deprecated ones may repeat each other, not contradict.
void validate_num_sms(const MoeConfig& config) {
  require_at_least(0, "moe_flex_dispatcher_num_sms", config.moe_flex_dispatcher_num_sms);
  require_at_least(0, "moe_deepep_num_sms", config.moe_deepep_num_sms);
  require_at_least(0, "moe_hybridep_num_sms", config.moe_hybridep_num_sms);
  const auto require_same = [](std::optional<int> a, const char* name_a, std::optional<int> b,
                               const char* name_b) {
    require_argument(!a || !b || *a == *b, name_b, "{} {} contradicts {} {}", name_b, b.value_or(0), name_a,
                     a.value_or(0));
  };
  const auto unified = config.moe_flex_dispatcher_num_sms;
  require_same(unified, "moe_flex_dispatcher_num_sms", config.moe_deepep_num_sms, "moe_deepep_num_sms");
  require_same(unified, "moe_flex_dispatcher_num_sms", config.moe_hybridep_num_sms, "moe_hybridep_num_sms");
  require_same(config.moe_deepep_num_sms, "moe_deepep_num_sms", config.moe_hybridep_num_sms,
               "moe_hybridep_num_sms");
  const bool is_deepep = config.moe_token_dispatcher_type == TokenDispatcherType::kFlex &&
                         config.flex_dispatcher_backend() == FlexDispatcherBackend::kDeepEp;
  require_argument(!is_deepep || config.flex_dispatcher_num_sms() % 2 == 0, "moe_flex_dispatcher_num_sms",
                   "moe_flex_dispatcher_num_sms must be even with moe_flex_dispatcher_backend deepep, not {}",
                   config.flex_dispatcher_num_sms());
}

void validate_backends(const MoeConfig& config) {
  require_at_least(1, "moe_hybridep_num_blocks_permute", config.moe_hybridep_num_blocks_permute);
  require_at_least(1, "moe_hybridep_num_blocks_unpermute", config.moe_hybridep_num_blocks_unpermute);
  require_at_least(1, "moe_hybridep_num_sms_preprocessing", config.moe_hybridep_num_sms_preprocessing);
  require_argument(!config.moe_ncclep_static_shape, "moe_ncclep_static_shape",
                   "moe_ncclep_static_shape needs experts that skip rows on the device, which flexep lacks");
  require_argument(!config.moe_ncclep_use_symm_mem, "moe_ncclep_use_symm_mem",
                   "moe_ncclep_use_symm_mem is not implemented; memory of ElasticBuffer::empty is sent "
                   "without a copy anyway");
}

void validate_quantization(const MoeConfig& config) {
  const bool has_fp8 = config.fp8 != Fp8Format::kNone, has_fp4 = config.fp4 != Fp4Format::kNone;
  require_argument(!has_fp8 || !has_fp4, "fp4", "fp4 and fp8 exclude each other");
  if (!config.router_padding_for_quantization()) return;
  const char* name = config.moe_router_padding_for_quantization ? "moe_router_padding_for_quantization"
                                                                : "moe_router_padding_for_fp8";
  require_argument(has_fp8 || has_fp4, name, "{} needs fp8 or fp4", name);
  require_argument(config.moe_token_dispatcher_type != TokenDispatcherType::kAllGather, name,
                   "{} needs moe_token_dispatcher_type alltoall or flex", name);
}

void validate_experts(const MoeConfig& config) {
  require_argument(!config.moe_apply_probs_on_input || config.moe_router_topk == 1,
                   "moe_apply_probs_on_input", "moe_apply_probs_on_input needs moe_router_topk 1, not {}",
                   config.moe_router_topk);
  require_floating("params_dtype", config.params_dtype);
  require_not_negative("init_method_std", config.init_method_std);
}

}  // namespace

void MoeConfig::validate() const {
  validate_sizes(*this);
  validate_shared_experts(*this);
  validate_router(*this);
  validate_balancing(*this);
  validate_capacity(*this);
  validate_dispatcher_type(*this);
  validate_rank_capacity(*this);
  validate_num_sms(*this);
  validate_backends(*this);
  validate_quantization(*this);
  validate_experts(*this);
}

}  // namespace flexep::moe
