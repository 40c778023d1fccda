// SPDX-License-Identifier: Apache-2.0
#include "moe/config_rules.h"
#include "moe/option_checks.h"

namespace flexep::moe {
namespace {

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

}  // namespace

void check_dispatcher_options(const MoeConfig& config) {
  validate_dispatcher_type(config);
  validate_rank_capacity(config);
  validate_num_sms(config);
  validate_backends(config);
  validate_quantization(config);
}

}  // namespace flexep::moe
