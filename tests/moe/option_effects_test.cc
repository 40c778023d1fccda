// SPDX-License-Identifier: Apache-2.0
//
// What each option changes: the same layer with and without it, over two ranks.
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <set>
#include <string_view>
#include <utility>

#include "flexep/moe/moe_layer.h"
#include "matrices.h"

namespace flexep::moe {
namespace {

using testing::random_tensor;
using testing::rows_of;

using Settings = std::vector<std::pair<std::string_view, std::string_view>>;

void apply(MoeConfig& config, const Settings& settings) {
  const auto options = moe_options();
  for (const auto& [name, value] : settings) {
    std::ranges::find_if(options, [name = name](const auto& option) {
      return option.name == name;
    })->set(config, value);
  }
}

struct Effect {
  std::string_view option;
  std::string_view value;
  Settings beside;              ///< what both configurations have, and defaults do not
  std::int64_t num_tokens = 8;  ///< of each rank
};

void PrintTo(const Effect& effect, std::ostream* out) {
  *out << effect.option << " = " << effect.value;
}

MoeConfig config_of(const Effect& effect) {
  MoeConfig config{.hidden_size = 4,
                   .num_moe_experts = 4,
                   .moe_ffn_hidden_size = 4,
                   .expert_model_parallel_size = 2,
                   .params_dtype = DType::kFloat64,
                   .init_method_std = 0.5};
  apply(config, effect.beside);
  return config;
}

// What options mean together, and what a caller is told.
std::string describe(const MoeConfig& config) {
  return fmt::format("alignment {}, {} SMs, backend {}, warnings [{}]\n", config.quantization_alignment(),
                     config.flex_dispatcher_num_sms(), static_cast<int>(config.flex_dispatcher_backend()),
                     fmt::join(config.warnings(), "; "));
}

// Two microbatches through a layer, forward and backward, and the bias that they leave.
std::string run_layer(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group,
                      std::int64_t num_tokens) {
  std::string text;
  MoeLayer layer(config, group, /*seed=*/3);
  const auto seed = static_cast<std::uint64_t>(group->comm().rank());
  for (std::uint64_t i = 0; i < 2; ++i) {
    Tensor hidden = random_tensor(num_tokens, config.hidden_size, 10 * i + seed);
    hidden = hidden.reshape({num_tokens / 2, 2, config.hidden_size});
    auto forward = layer.forward(hidden);
    const auto grads = layer.backward(std::move(forward.context), {.output = hidden, .aux_loss = 1.0});
    text += fmt::format("output {}, loss {} + {}, load {}, gradients {} {}\n", rows_of(forward.output),
                        forward.load_balancing_loss, forward.z_loss, forward.tokens_per_expert,
                        rows_of(grads.hidden), rows_of(grads.parameters.router_weight));
  }
  layer.update_expert_bias();
  return text + fmt::format("bias {}\n", layer.expert_bias());
}

// One microbatch up to the experts.
std::string run_dispatch(const MoeConfig& config, const std::shared_ptr<ExpertParallelGroup>& group,
                         std::int64_t num_tokens) {
  const auto seed = static_cast<std::uint64_t>(group->comm().rank());
  const Tensor hidden = random_tensor(num_tokens, config.hidden_size, seed),
               weight = random_tensor(config.num_moe_experts, config.hidden_size, 7);
  auto& comm = group->comm();
  const auto routed = router_forward(config, comm, hidden, weight);
  const auto dispatcher = make_token_dispatcher(config, group);
  const Tensor sent = random_tensor(num_tokens, config.dispatched_hidden_size(), 5);
  // A map that excludes what the router chose for the first token.
  const Tensor map = routed.routing_map.clone();
  if (num_tokens > 0) std::ranges::fill(map.rows(0, 1).values<std::int32_t>(), 0);
  const auto received = dispatcher->token_dispatch(
      dispatcher->dispatch_preprocess({.hidden = sent, .probs = routed.probs}, map));
  const auto shape = received.hidden.shape();
  const auto grouped = dispatcher->dispatch_postprocess(received);
  return fmt::format("{} received, {} by expert, over budget {}\n", shape.to_string(),
                     grouped.tokens_per_expert, dispatcher->check_over_budget().value_or(false));
}

std::string observe(const MoeConfig& config, std::int64_t num_tokens) {
  std::string text = describe(config);
  in_process(config.num_ranks(), [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    std::string mine;
    try {
      mine = run_layer(config, group, num_tokens) + run_dispatch(config, group, num_tokens);
    } catch (const InvalidArgument& error) {
      mine = error.what();
    }
    if (comm.rank() == 0) text += mine;
  });
  return text;
}

class OptionEffectTest : public ::testing::TestWithParam<Effect> {};

TEST_P(OptionEffectTest, ALegalValueChangesWhatIsSeen) {
  MoeConfig without = config_of(GetParam()), with = without;
  apply(with, {{GetParam().option, GetParam().value}});
  ASSERT_NO_THROW(without.validate());
  ASSERT_NO_THROW(with.validate());
  EXPECT_NE(without, with) << "not a change";
  const auto observed = observe(without, GetParam().num_tokens);
  EXPECT_EQ(observed, observe(without, GetParam().num_tokens)) << "not the option alone changes it";
  EXPECT_NE(observed, observe(with, GetParam().num_tokens));
}

const std::pair<std::string_view, std::string_view> kAllToAll{"moe_token_dispatcher_type", "alltoall"},
    kFlex{"moe_token_dispatcher_type", "flex"}, kDeepEpV2{"moe_flex_dispatcher_backend", "deepepv2"},
    kHybridEp{"moe_flex_dispatcher_backend", "hybridep"}, kNcclEp{"moe_flex_dispatcher_backend", "ncclep"},
    kSigmoid{"moe_router_score_function", "sigmoid"}, kFp8{"fp8", "e4m3"},
    kOpFuser{"use_transformer_engine_op_fuser", "true"};

const std::vector<Effect> kModel{
    {"hidden_size", "8", {}},
    {"num_moe_experts", "8", {}},
    {"moe_ffn_hidden_size", "8", {}},
    {"moe_latent_size", "2", {}},
    {"moe_shared_expert_intermediate_size", "4", {}},
    {"moe_shared_expert_gate", "true", {{"moe_shared_expert_intermediate_size", "4"}}},
    {"expert_model_parallel_size", "1", {}},
    {"expert_tensor_parallel_size", "2", {{"expert_model_parallel_size", "1"}}},
    {"moe_apply_probs_on_input", "true", {kSigmoid, {"moe_router_topk", "1"}}},
    {"fp8", "e4m3", {kFlex, kHybridEp}},
    {"fp8_recipe", "mxfp8", {kFlex, kHybridEp, kFp8}},
    {"fp4", "e2m1", {kFlex, kHybridEp}},
    {"use_transformer_engine_op_fuser", "true", {kFlex, kHybridEp, kFp8}},
    {"init_method_std", "0.25", {}}};

const std::vector<Effect> kRouter{
    {"moe_router_topk", "3", {}},
    {"moe_router_score_function", "sqrtsoftplus", {}},
    {"moe_router_pre_softmax", "true", {}},
    {"moe_router_dtype", "fp64", {}},
    {"moe_router_topk_scaling_factor", "2.5", {}},
    {"moe_router_num_groups",
     "2",
     {{"num_moe_experts", "8"}, {"moe_router_num_groups", "4"}, {"moe_router_group_topk", "1"}}},
    {"moe_router_group_topk", "1", {{"moe_router_num_groups", "2"}, {"moe_router_group_topk", "2"}}},
    {"moe_router_enable_expert_bias", "true", {kSigmoid}},
    {"moe_router_bias_update_rate", "0.5", {kSigmoid, {"moe_router_enable_expert_bias", "true"}}},
    {"moe_router_load_balancing_type", "sinkhorn", {}},
    {"moe_router_load_balancing_type", "seq_aux_loss", {{"moe_aux_loss_coeff", "0.5"}}},
    {"moe_router_load_balancing_type", "global_aux_loss", {{"moe_aux_loss_coeff", "0.5"}}},
    {"moe_aux_loss_coeff", "0.5", {}},
    {"moe_z_loss_coeff", "0.5", {}},
    {"moe_input_jitter_eps", "0.25", {}},
    {"moe_router_force_load_balancing", "true", {}},
    {"moe_router_force_biased", "2", {}},
    {"moe_respect_routing_map", "true", {kFlex, kDeepEpV2}}};

const std::vector<Effect> kCapacity{
    {"moe_expert_capacity_factor", "0.5", {}},
    {"moe_pad_expert_input_to_capacity", "true", {kAllToAll, {"moe_expert_capacity_factor", "1.5"}}},
    {"moe_token_drop_policy", "position", {{"moe_expert_capacity_factor", "0.5"}}},
    {"moe_expert_rank_capacity_factor",
     "0.05",
     {kFlex, kNcclEp, {"moe_expert_rank_capacity_factor", "2"}, {"moe_ncclep_drop_on_overflow", "true"}}},
    {"moe_paged_stash",
     "true",
     {kFlex, kHybridEp, kOpFuser, {"moe_expert_rank_capacity_factor", "0.01"}},
     300},
    {"moe_router_padding_for_quantization", "true", {kAllToAll, kFp8}},
    {"moe_router_padding_for_fp8", "true", {kAllToAll, kFp8}}};

const std::vector<Effect> kDispatchers{
    {"moe_token_dispatcher_type", "alltoall", {}},
    {"moe_token_dispatcher_type", "flex", {}},
    {"moe_flex_dispatcher_backend", "deepepv2", {kFlex}},
    {"moe_enable_deepep", "true", {kFlex}},
    {"moe_flex_dispatcher_num_sms", "6", {kFlex}},
    {"moe_deepep_num_sms", "6", {kFlex}},
    {"moe_hybridep_num_sms", "6", {kFlex, kHybridEp}},
    {"moe_permute_fusion", "true", {kFlex, kDeepEpV2, {"moe_router_topk", "3"}}},
    // 130 * 2 * 0.98 rounds up to 256 rows, 192 * 2 * 0.98 to 512; 260 come to one of the ranks at least.
    {"moe_hybridep_pad_variable_tokens",
     "true",
     {kFlex, kHybridEp, kOpFuser, {"moe_expert_rank_capacity_factor", "0.98"}},
     130},
    {"moe_hybridep_num_blocks_permute", "8", {kFlex, kHybridEp}},
    {"moe_hybridep_num_blocks_unpermute", "8", {kFlex, kHybridEp}},
    {"moe_hybridep_num_sms_preprocessing", "8", {kFlex, kHybridEp}},
    {"moe_ncclep_drop_on_overflow", "true", {kFlex, kNcclEp, {"moe_expert_rank_capacity_factor", "0.05"}}}};

INSTANTIATE_TEST_SUITE_P(Model, OptionEffectTest, ::testing::ValuesIn(kModel));
INSTANTIATE_TEST_SUITE_P(Router, OptionEffectTest, ::testing::ValuesIn(kRouter));
INSTANTIATE_TEST_SUITE_P(Capacity, OptionEffectTest, ::testing::ValuesIn(kCapacity));
INSTANTIATE_TEST_SUITE_P(Dispatchers, OptionEffectTest, ::testing::ValuesIn(kDispatchers));

TEST(OptionEffectsTest, EveryOptionIsHeldByATest) {
  const std::set<std::string_view> elsewhere{
      "moe_shared_expert_overlap",         // MoeLayerTest.OverlapOfTheSharedExpertChangesNoBit: only time
      "moe_enable_routing_replay",         // MoeLayerRouterTest.AReplayedForwardChoosesTheSameExperts
      "params_dtype",                      // MoeLayerErrorTest.RowsAndParametersAreDoubleTogether
      "moe_permute_fusion_into_hybridep",  // nothing to change: the permutation is always part of it
      "moe_ncclep_static_shape",           // only its default is legal
      "moe_ncclep_use_symm_mem",           // only its default is legal
      "variable_seq_lengths",              // a declaration, which is checked
      "overlap_moe_expert_parallel_comm",  // a declaration, which is checked
  };
  std::set<std::string_view> here;
  for (const auto* part : {&kModel, &kRouter, &kCapacity, &kDispatchers})
    for (const Effect& effect : *part) here.insert(effect.option);
  for (const MoeOption& option : moe_options())
    EXPECT_NE(here.contains(option.name), elsewhere.contains(option.name)) << option.name;
}

}  // namespace
}  // namespace flexep::moe
