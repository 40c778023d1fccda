// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "flexep/moe/moe_enums.h"
#include "flexep/types.h"

namespace flexep::moe {

/// Everything that shapes a MoE layer, under Megatron's option names and with its defaults. moe_options()
/// describes each in words. The member functions say what options mean together: read those, not the members
/// that they stand for.
struct MoeConfig {
  // Sizes.
  int hidden_size = 0;          ///< H, must be given
  int num_moe_experts = 0;      ///< E, must be given
  int moe_ffn_hidden_size = 0;  ///< F, must be given
  std::optional<int> moe_latent_size;
  std::optional<int> moe_shared_expert_intermediate_size;
  bool moe_shared_expert_gate = false;
  bool moe_shared_expert_overlap = false;
  int expert_model_parallel_size = 1;
  int expert_tensor_parallel_size = 1;

  // Router.
  int moe_router_topk = 2;
  RouterScoreFunction moe_router_score_function = RouterScoreFunction::kSoftmax;
  bool moe_router_pre_softmax = false;
  std::optional<DType> moe_router_dtype;  ///< kFloat32 or kFloat64; see router_dtype()
  double moe_router_topk_scaling_factor = 1.0;
  std::optional<int> moe_router_num_groups;
  std::optional<int> moe_router_group_topk;
  bool moe_router_enable_expert_bias = false;
  double moe_router_bias_update_rate = 1e-3;
  RouterLoadBalancing moe_router_load_balancing_type = RouterLoadBalancing::kAuxLoss;
  double moe_aux_loss_coeff = 0.0;
  std::optional<double> moe_z_loss_coeff;
  std::optional<double> moe_input_jitter_eps;
  bool moe_router_force_load_balancing = false;
  std::optional<double> moe_router_force_biased;
  bool moe_enable_routing_replay = false;
  bool moe_respect_routing_map = false;

  // Capacity and padding.
  std::optional<double> moe_expert_capacity_factor;  ///< see expert_capacity_factor()
  bool moe_pad_expert_input_to_capacity = false;
  TokenDropPolicy moe_token_drop_policy = TokenDropPolicy::kProbs;
  std::optional<double> moe_expert_rank_capacity_factor;
  bool moe_paged_stash = false;
  bool moe_router_padding_for_quantization = false;
  bool moe_router_padding_for_fp8 = false;  ///< deprecated alias; see router_padding_for_quantization()

  // Dispatcher.
  TokenDispatcherType moe_token_dispatcher_type = TokenDispatcherType::kAllGather;
  FlexDispatcherBackend moe_flex_dispatcher_backend = FlexDispatcherBackend::kDeepEp;
  bool moe_enable_deepep = false;                  ///< deprecated; see flex_dispatcher_backend()
  std::optional<int> moe_flex_dispatcher_num_sms;  ///< see flex_dispatcher_num_sms()
  std::optional<int> moe_deepep_num_sms;           ///< deprecated
  std::optional<int> moe_hybridep_num_sms;         ///< deprecated
  bool moe_permute_fusion = false;
  bool moe_permute_fusion_into_hybridep = false;
  bool moe_hybridep_pad_variable_tokens = false;
  std::optional<int> moe_hybridep_num_blocks_permute;
  std::optional<int> moe_hybridep_num_blocks_unpermute;
  int moe_hybridep_num_sms_preprocessing = 108;
  bool moe_ncclep_static_shape = false;
  bool moe_ncclep_use_symm_mem = false;
  bool moe_ncclep_drop_on_overflow = false;
  bool variable_seq_lengths = false;
  bool overlap_moe_expert_parallel_comm = false;

  // Experts.
  bool moe_apply_probs_on_input = false;
  Fp8Format fp8 = Fp8Format::kNone;
  Fp8Recipe fp8_recipe = Fp8Recipe::kDelayed;
  Fp4Format fp4 = Fp4Format::kNone;
  bool use_transformer_engine_op_fuser = false;
  DType params_dtype = DType::kFloat32;  ///< kFloat32 or kFloat64
  double init_method_std = 0.02;

  int num_local_experts() const { return num_moe_experts / expert_model_parallel_size; }
  int local_ffn_hidden_size() const { return moe_ffn_hidden_size / expert_tensor_parallel_size; }
  int num_ranks() const { return expert_model_parallel_size * expert_tensor_parallel_size; }
  /// Width of the rows that are dispatched: moe_latent_size, else hidden_size.
  int dispatched_hidden_size() const { return moe_latent_size.value_or(hidden_size); }

  /// Arithmetic of the router: fp32 unless told otherwise.
  DType router_dtype() const { return moe_router_dtype.value_or(DType::kFloat32); }
  /// None for a dropless layer: unset, or negative as in Megatron.
  std::optional<double> expert_capacity_factor() const;
  bool router_padding_for_quantization() const {
    return moe_router_padding_for_quantization || moe_router_padding_for_fp8;
  }
  /// Rows that a quantised grouped GEMM wants an expert to have a multiple of: 256 with the op fuser, 32 for
  /// mxfp8, 16 for other fp8, 128 for fp4; 0 without quantisation.
  int quantization_alignment() const;

  /// moe_flex_dispatcher_backend, which moe_enable_deepep overrides.
  FlexDispatcherBackend flex_dispatcher_backend() const;
  /// Threads (SMs on a GPU) of a dispatch or combine as the options ask for them, 0 = as the buffer decides:
  /// moe_flex_dispatcher_num_sms, else what the deprecated options say, else 20 for deepep and 0 for others.
  int flex_dispatcher_num_sms() const;

  /// @throws InvalidArgument whose argument() is the name of the first option that is out of range, missing,
  /// or contradicts another.
  void validate() const;
  /// What a legal configuration should be told all the same, a sentence each that names the option:
  /// deprecated options and surprising combinations. The library itself prints nothing.
  std::vector<std::string> warnings() const;

  /// Reads {"moe_router_topk": 2, ...}: options that are absent keep their defaults; null is none.
  /// @throws InvalidArgument: text that is no JSON object ("json"), an unknown name, a value of the wrong
  /// type, an illegal value.
  static MoeConfig from_json(std::string_view text);
  /// One JSON object with every option; from_json reads it back.
  std::string to_json() const;

  friend bool operator==(const MoeConfig&, const MoeConfig&) = default;
};

enum class OptionType { kInteger, kNumber, kBoolean, kChoice };
/// "integer", "number", "boolean", "choice".
std::string_view name_of(OptionType type);

/// One option of MoeConfig. The table of these is what JSON, command lines and documentation are made from.
struct MoeOption {
  std::string_view name;  ///< "moe_router_topk"
  OptionType type;
  bool may_be_none;  ///< whether "none" is a value, null in JSON
  std::string_view help;
  /// The value as text: "2", "0.01", "true", "softmax", "none".
  std::function<std::string(const MoeConfig&)> get;
  /// Parses text into the option. @throws InvalidArgument that names the option and says what is legal.
  std::function<void(MoeConfig&, std::string_view)> set;

  /// "--moe-router-topk".
  std::string flag() const;
};

/// Every option, in the order of the documentation. A command line registers each under flag(), and sets a
/// boolean to "true" when the flag stands alone.
std::span<const MoeOption> moe_options();

}  // namespace flexep::moe
