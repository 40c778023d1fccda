// SPDX-License-Identifier: Apache-2.0
#include "moe/option_codec.h"
#include "moe/option_table.h"

namespace flexep::moe {

using C = MoeConfig;

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

}  // namespace flexep::moe
