// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "moe/option_codec.h"

namespace flexep::moe {
namespace {

using C = MoeConfig;
using Options = std::vector<MoeOption>;

OptionCodec<DType> floating_type_codec() {
  return choice_codec<DType>({{"fp32", DType::kFloat32}, {"fp64", DType::kFloat64}});
}

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

Options score_options() {
  return {
      make_option("moe_router_topk", &C::moe_router_topk, integer_codec(), "Experts that each token goes to"),
      make_option("moe_router_score_function", &C::moe_router_score_function,
                  choice_codec<RouterScoreFunction>({{"softmax", RouterScoreFunction::kSoftmax},
                                                     {"sigmoid", RouterScoreFunction::kSigmoid},
                                                     {"sqrtsoftplus", RouterScoreFunction::kSqrtSoftplus}}),
                  "softmax | sigmoid | sqrtsoftplus: what is made of the logits"),
      make_option("moe_router_pre_softmax", &C::moe_router_pre_softmax, boolean_codec(),
                  "Softmax over all experts before the top k is chosen, instead of over the chosen"),
      make_option("moe_router_dtype", &C::moe_router_dtype, optional_codec(floating_type_codec()),
                  "fp32 | fp64: arithmetic of the router; none = fp32"),
      make_option("moe_router_topk_scaling_factor", &C::moe_router_topk_scaling_factor, number_codec(),
                  "Factor on the probabilities of the chosen experts"),
      make_option("moe_router_num_groups", &C::moe_router_num_groups, optional_codec(integer_codec()),
                  "Groups of experts, as nodes or devices hold them"),
      make_option("moe_router_group_topk", &C::moe_router_group_topk, optional_codec(integer_codec()),
                  "Groups that a token's experts may come from"),
      make_option("moe_router_enable_expert_bias", &C::moe_router_enable_expert_bias, boolean_codec(),
                  "A bias on the scores that choose, which grows for experts with too few tokens"),
      make_option("moe_router_bias_update_rate", &C::moe_router_bias_update_rate, number_codec(),
                  "By how much an update moves the expert bias"),
  };
}

Options balancing_options() {
  return {
      make_option("moe_router_load_balancing_type", &C::moe_router_load_balancing_type,
                  choice_codec<RouterLoadBalancing>({{"none", RouterLoadBalancing::kNone},
                                                     {"aux_loss", RouterLoadBalancing::kAuxLoss},
                                                     {"seq_aux_loss", RouterLoadBalancing::kSeqAuxLoss},
                                                     {"global_aux_loss", RouterLoadBalancing::kGlobalAuxLoss},
                                                     {"sinkhorn", RouterLoadBalancing::kSinkhorn}}),
                  "none | aux_loss | seq_aux_loss | global_aux_loss | sinkhorn"),
      make_option("moe_aux_loss_coeff", &C::moe_aux_loss_coeff, number_codec(),
                  "Weight of the load-balancing loss; 0 = none"),
      make_option("moe_z_loss_coeff", &C::moe_z_loss_coeff, optional_codec(number_codec()),
                  "Weight of the z-loss, which keeps logits small"),
      make_option("moe_input_jitter_eps", &C::moe_input_jitter_eps, optional_codec(number_codec()),
                  "The router's input is scaled by random factors within 1 +- eps"),
      make_option("moe_router_force_load_balancing", &C::moe_router_force_load_balancing, boolean_codec(),
                  "For benchmarks: random logits, so that load is even"),
      make_option("moe_router_force_biased", &C::moe_router_force_biased, optional_codec(number_codec()),
                  "For benchmarks: random bias of this standard deviation on each expert's logits; "
                  "negative = drawn once instead of at each forward"),
      make_option("moe_enable_routing_replay", &C::moe_enable_routing_replay, boolean_codec(),
                  "A forward may be told which experts to choose"),
      make_option("moe_respect_routing_map", &C::moe_respect_routing_map, boolean_codec(),
                  "Pairs that the routing map excludes are never sent"),
  };
}

Options capacity_options() {
  return {
      make_option("moe_expert_capacity_factor", &C::moe_expert_capacity_factor,
                  optional_codec(number_codec()),
                  "Most tokens of an expert, as a multiple of an even share; none or negative = no limit"),
      make_option("moe_pad_expert_input_to_capacity", &C::moe_pad_expert_input_to_capacity, boolean_codec(),
                  "Every expert gets exactly its capacity"),
      make_option("moe_token_drop_policy", &C::moe_token_drop_policy,
                  choice_codec<TokenDropPolicy>(
                      {{"probs", TokenDropPolicy::kProbs}, {"position", TokenDropPolicy::kPosition}}),
                  "probs | position: what stays where capacity ends"),
      make_option("moe_expert_rank_capacity_factor", &C::moe_expert_rank_capacity_factor,
                  optional_codec(number_codec()), "Most rows of a rank, as a multiple of what it sends"),
      make_option("moe_paged_stash", &C::moe_paged_stash, boolean_codec(),
                  "A forward that went over the ranks' capacity is done again without it"),
      make_option("moe_router_padding_for_quantization", &C::moe_router_padding_for_quantization,
                  boolean_codec(),
                  "Experts get tokens of probability 0 up to a multiple of the quantisation's alignment"),
      make_option("moe_router_padding_for_fp8", &C::moe_router_padding_for_fp8, boolean_codec(),
                  "Deprecated name of moe_router_padding_for_quantization"),
  };
}

Options dispatcher_options() {
  return {
      make_option("moe_token_dispatcher_type", &C::moe_token_dispatcher_type,
                  choice_codec<TokenDispatcherType>({{"allgather", TokenDispatcherType::kAllGather},
                                                     {"alltoall", TokenDispatcherType::kAllToAll},
                                                     {"flex", TokenDispatcherType::kFlex}}),
                  "allgather | alltoall | flex"),
      make_option("moe_flex_dispatcher_backend", &C::moe_flex_dispatcher_backend,
                  choice_codec<FlexDispatcherBackend>({{"deepep", FlexDispatcherBackend::kDeepEp},
                                                       {"deepepv2", FlexDispatcherBackend::kDeepEpV2},
                                                       {"hybridep", FlexDispatcherBackend::kHybridEp},
                                                       {"ncclep", FlexDispatcherBackend::kNcclEp}}),
                  "deepep | deepepv2 | hybridep | ncclep"),
      make_option("moe_enable_deepep", &C::moe_enable_deepep, boolean_codec(),
                  "Deprecated: moe_flex_dispatcher_backend deepep"),
      make_option("moe_flex_dispatcher_num_sms", &C::moe_flex_dispatcher_num_sms,
                  optional_codec(integer_codec()),
                  "Threads (SMs on a GPU) of a dispatch or combine; none = the backend's default"),
      make_option("moe_deepep_num_sms", &C::moe_deepep_num_sms, optional_codec(integer_codec()),
                  "Deprecated name of moe_flex_dispatcher_num_sms"),
      make_option("moe_hybridep_num_sms", &C::moe_hybridep_num_sms, optional_codec(integer_codec()),
                  "Deprecated name of moe_flex_dispatcher_num_sms"),
      make_option("moe_permute_fusion", &C::moe_permute_fusion, boolean_codec(),
                  "Rows arrive grouped by expert, instead of being permuted after they came"),
      make_option("variable_seq_lengths", &C::variable_seq_lengths, boolean_codec(),
                  "Declares that ranks may have different numbers of tokens"),
      make_option("overlap_moe_expert_parallel_comm", &C::overlap_moe_expert_parallel_comm, boolean_codec(),
                  "Declares that the caller overlaps microbatches"),
  };
}

Options backend_options() {
  return {
      make_option("moe_permute_fusion_into_hybridep", &C::moe_permute_fusion_into_hybridep, boolean_codec(),
                  "hybridep: the permutation is part of the dispatch"),
      make_option("moe_hybridep_pad_variable_tokens", &C::moe_hybridep_pad_variable_tokens, boolean_codec(),
                  "hybridep: every rank sends as many tokens, a multiple of 64, zero rows among them"),
      make_option("moe_hybridep_num_blocks_permute", &C::moe_hybridep_num_blocks_permute,
                  optional_codec(integer_codec()), "hybridep: width of the permutation; none = automatic"),
      make_option("moe_hybridep_num_blocks_unpermute", &C::moe_hybridep_num_blocks_unpermute,
                  optional_codec(integer_codec()), "hybridep: width of its inverse; none = automatic"),
      make_option("moe_hybridep_num_sms_preprocessing", &C::moe_hybridep_num_sms_preprocessing,
                  integer_codec(), "hybridep: width of the planning"),
      make_option("moe_ncclep_static_shape", &C::moe_ncclep_static_shape, boolean_codec(),
                  "ncclep: experts get the whole receive buffer"),
      make_option("moe_ncclep_use_symm_mem", &C::moe_ncclep_use_symm_mem, boolean_codec(),
                  "ncclep: send from symmetric memory"),
      make_option("moe_ncclep_drop_on_overflow", &C::moe_ncclep_drop_on_overflow, boolean_codec(),
                  "ncclep: tokens beyond the capacity are dropped and counted, instead of being an error"),
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

Options make_options() {
  Options all;
  for (const auto& part : {size_options(), score_options(), balancing_options(), capacity_options(),
                           dispatcher_options(), backend_options(), expert_options()})
    all.insert(all.end(), part.begin(), part.end());
  return all;
}

}  // namespace

std::string_view name_of(OptionType type) {
  switch (type) {
    case OptionType::kInteger:
      return "integer";
    case OptionType::kNumber:
      return "number";
    case OptionType::kBoolean:
      return "boolean";
    case OptionType::kChoice:
      return "choice";
  }
  return "unknown";
}

std::string MoeOption::flag() const {
  std::string dashed(name);
  std::replace(dashed.begin(), dashed.end(), '_', '-');
  return "--" + dashed;
}

std::span<const MoeOption> moe_options() {
  static const std::vector<MoeOption> options = make_options();
  return options;
}

}  // namespace flexep::moe
