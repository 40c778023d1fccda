// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>

#include "flexep/types.h"

namespace flexep::moe {

enum class RouterScoreFunction { kSoftmax, kSigmoid };
enum class RouterLoadBalancing { kAuxLoss, kNone };
enum class TokenDispatcherType { kFlex };
enum class FlexDispatcherBackend { kDeepEpV2 };

/// Everything that shapes a MoE layer, under Megatron's option names. moe_options() describes each in words.
struct MoeConfig {
  int hidden_size = 0;          ///< H, must be given
  int num_moe_experts = 0;      ///< E, must be given
  int moe_ffn_hidden_size = 0;  ///< F, must be given
  int expert_model_parallel_size = 1;
  int expert_tensor_parallel_size = 1;

  int moe_router_topk = 2;
  RouterScoreFunction moe_router_score_function = RouterScoreFunction::kSoftmax;
  bool moe_router_pre_softmax = false;
  DType moe_router_dtype = DType::kFloat32;  ///< kFloat32 or kFloat64
  double moe_router_topk_scaling_factor = 1.0;
  RouterLoadBalancing moe_router_load_balancing_type = RouterLoadBalancing::kAuxLoss;
  double moe_aux_loss_coeff = 0.0;

  TokenDispatcherType moe_token_dispatcher_type = TokenDispatcherType::kFlex;
  FlexDispatcherBackend moe_flex_dispatcher_backend = FlexDispatcherBackend::kDeepEpV2;
  int moe_flex_dispatcher_num_sms = 0;  ///< 0 = automatic
  bool moe_permute_fusion = false;

  DType params_dtype = DType::kFloat32;  ///< kFloat32 or kFloat64
  double init_method_std = 0.02;

  int num_local_experts() const { return num_moe_experts / expert_model_parallel_size; }
  int local_ffn_hidden_size() const { return moe_ffn_hidden_size / expert_tensor_parallel_size; }
  int num_ranks() const { return expert_model_parallel_size * expert_tensor_parallel_size; }

  /// @throws InvalidArgument whose argument() is the name of the first option that is out of range, missing,
  /// or contradicts another.
  void validate() const;

  /// Reads {"moe_router_topk": 2, ...}: options that are absent keep their defaults.
  /// @throws InvalidArgument: text that is no JSON object ("json"), an unknown name, a value of the wrong
  /// type, an illegal value.
  static MoeConfig from_json(std::string_view text);
  /// One JSON object with every option; from_json reads it back.
  std::string to_json() const;

  friend bool operator==(const MoeConfig&, const MoeConfig&) = default;
};

enum class OptionType { kInteger, kNumber, kBoolean, kChoice };

/// One option of MoeConfig. The table of these is what JSON, command lines and documentation are made from.
struct MoeOption {
  std::string_view name;  ///< "moe_router_topk"
  OptionType type;
  std::string_view help;
  /// The value as text: "2", "0.01", "true", "softmax".
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
