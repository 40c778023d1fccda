// SPDX-License-Identifier: Apache-2.0
#include "moe/option_codec.h"
#include "moe/option_table.h"

namespace flexep::moe {

using C = MoeConfig;

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

}  // namespace flexep::moe
