// SPDX-License-Identifier: Apache-2.0
#include "moe/option_codec.h"
#include "moe/option_table.h"

namespace flexep::moe {

using C = MoeConfig;

Options size_options() {
  return {
      make_option("hidden_size", &C::hidden_size, integer_codec(), "Width of a token's row"),
      make_option("num_moe_experts", &C::num_moe_experts, integer_codec(),
                  "Experts of a layer, over all ranks"),
      make_option("moe_ffn_hidden_size", &C::moe_ffn_hidden_size, integer_codec(), "Width inside an expert"),
      make_option("moe_latent_size", &C::moe_latent_size, optional_codec(integer_codec()),
                  "Width of the rows that experts see: projected down before dispatch, up after combine"),
      make_option("moe_shared_expert_intermediate_size", &C::moe_shared_expert_intermediate_size,
                  optional_codec(integer_codec()),
                  "Width inside the shared expert, which every token visits; none = no such"),
      make_option("moe_shared_expert_gate", &C::moe_shared_expert_gate, boolean_codec(),
                  "The shared expert's output is scaled by a sigmoid of a linear function of the token"),
      make_option("moe_shared_expert_overlap", &C::moe_shared_expert_overlap, boolean_codec(),
                  "The shared expert computes while tokens travel"),
      make_option("expert_model_parallel_size", &C::expert_model_parallel_size, integer_codec(),
                  "Groups of ranks that the experts are divided between"),
      make_option("expert_tensor_parallel_size", &C::expert_tensor_parallel_size, integer_codec(),
                  "Ranks that share each expert, a slice of moe_ffn_hidden_size each"),
  };
}

Options expert_options() {
  return {
      make_option("moe_apply_probs_on_input", &C::moe_apply_probs_on_input, boolean_codec(),
                  "A token is scaled by its probability before the expert, not inside it"),
      make_option(
          "fp8", &C::fp8,
          choice_codec<Fp8Format>(
              {{"none", Fp8Format::kNone}, {"e4m3", Fp8Format::kE4M3}, {"hybrid", Fp8Format::kHybrid}}),
          "none | e4m3 | hybrid: decides how rows are padded"),
      make_option("fp8_recipe", &C::fp8_recipe,
                  choice_codec<Fp8Recipe>({{"delayed", Fp8Recipe::kDelayed},
                                           {"tensorwise", Fp8Recipe::kTensorwise},
                                           {"mxfp8", Fp8Recipe::kMxFp8},
                                           {"blockwise", Fp8Recipe::kBlockwise}}),
                  "delayed | tensorwise | mxfp8 | blockwise"),
      make_option("fp4", &C::fp4,
                  choice_codec<Fp4Format>({{"none", Fp4Format::kNone}, {"e2m1", Fp4Format::kE2M1}}),
                  "none | e2m1: decides how rows are padded"),
      make_option("use_transformer_engine_op_fuser", &C::use_transformer_engine_op_fuser, boolean_codec(),
                  "The experts are one fused operation, which wants rows in multiples of 256"),
      make_option("params_dtype", &C::params_dtype, floating_type_codec(),
                  "fp32 | fp64: type of the parameters and of expert arithmetic"),
      make_option("init_method_std", &C::init_method_std, number_codec(),
                  "Standard deviation of the initial weights"),
  };
}

}  // namespace flexep::moe
