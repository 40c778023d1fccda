// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/moe_layer.h"

#include <gtest/gtest.h>

#include <cstring>

#include "expert_groups.h"
#include "layer_step.h"

namespace flexep::moe {
namespace {

using testing::config_of;
using testing::Division;
using testing::expect_equal_replicated_grads;
using testing::kGradAuxLoss;
using testing::Matrix;
using testing::near;
using testing::num_tokens_of_all;
using testing::random_tensor;
using testing::rejected_argument;
using testing::rows_of;
using testing::run_step;
using testing::share_of;
using testing::Step;
using testing::sum_of_router_grads;

constexpr std::int64_t kHidden = 4;
void expect_equal_to_reference(const MoeConfig& config, const Tensor& hidden, const Tensor& grad_output) {
  constexpr double kTolerance = 1e-12;
  const Step step = run_step(config, hidden, grad_output);
  const auto parameters = reference::gather_parameters(config, step.parameters);
  const auto expected = reference::moe_layer(config, parameters, rows_of(hidden));
  const auto expected_grads =
      reference::moe_layer_backward(config, parameters, rows_of(hidden), rows_of(grad_output), kGradAuxLoss);

  EXPECT_TRUE(near(expected.output, step.output, kTolerance));
  EXPECT_NEAR(expected.aux_loss, step.aux_loss, kTolerance);
  EXPECT_TRUE(near(expected_grads.hidden, step.grad_hidden, kTolerance));
  expect_equal_replicated_grads(step, expected_grads.parameters, kTolerance);
  testing::expect_equal_expert_grads(config, step, expected_grads.parameters, kTolerance);
}

class MoeLayerTest : public ::testing::TestWithParam<Division> {
 protected:
  MoeConfig config = config_of(GetParam());
  const Tensor hidden = random_tensor(num_tokens_of_all(config.num_ranks()), kHidden, 1);
  const Tensor grad_output = random_tensor(num_tokens_of_all(config.num_ranks()), kHidden, 2);
};

TEST_P(MoeLayerTest, OutputAndAllGradientsAgreeWithTheReference) {
  config.moe_aux_loss_coeff = 0.3;
  expect_equal_to_reference(config, hidden, grad_output);
}

TEST_P(MoeLayerTest, SoDoTheyWithSigmoidScores) {
  config.moe_router_score_function = RouterScoreFunction::kSigmoid;
  config.moe_aux_loss_coeff = 0.3;
  config.moe_router_topk_scaling_factor = 2.5;
  expect_equal_to_reference(config, hidden, grad_output);
}

TEST_P(MoeLayerTest, SoDoTheyWithALatentDimension) {
  config.moe_latent_size = 6;
  expect_equal_to_reference(config, hidden, grad_output);
}

TEST_P(MoeLayerTest, SoDoTheyWithASharedExpert) {
  config.moe_shared_expert_intermediate_size = 5;
  expect_equal_to_reference(config, hidden, grad_output);
  config.moe_shared_expert_gate = true;
  config.moe_shared_expert_overlap = true;
  config.moe_latent_size = 2;
  expect_equal_to_reference(config, hidden, grad_output);
}

TEST_P(MoeLayerTest, SoDoTheyWithProbsAppliedOnTheInput) {
  config.moe_router_score_function = RouterScoreFunction::kSigmoid;
  config.moe_router_topk = 1;
  config.moe_apply_probs_on_input = true;
  expect_equal_to_reference(config, hidden, grad_output);
}

TEST_P(MoeLayerTest, AllTokensMayGoToOneExpert) {
  config.moe_router_score_function = RouterScoreFunction::kSigmoid;
  config.moe_router_topk = 1;
  const Tensor no_hidden = Tensor::zeros(hidden.shape(), DType::kFloat64);  // equal logits: expert 0
  expect_equal_to_reference(config, no_hidden, grad_output);
}

TEST_P(MoeLayerTest, ARepeatedStepHasTheSameBits) {
  config.moe_aux_loss_coeff = 0.3;
  const Step first = run_step(config, hidden, grad_output), second = run_step(config, hidden, grad_output);
  EXPECT_TRUE(near(first.output, second.output, 0));
  EXPECT_TRUE(near(first.grad_hidden, second.grad_hidden, 0));
  EXPECT_TRUE(near(sum_of_router_grads(first), sum_of_router_grads(second), 0));
}

TEST_P(MoeLayerTest, TheModelIsTheSameWhateverTheNumberOfRanks) {
  const Step step = run_step(config, hidden, grad_output);
  const Division alone{.tp = 1, .ep = 1, .moe_permute_fusion = GetParam().moe_permute_fusion};
  const Step single = run_step(config_of(alone), random_tensor(num_tokens_of_all(1), kHidden, 1),
                               random_tensor(num_tokens_of_all(1), kHidden, 2));
  const auto expected = reference::gather_parameters(config_of(alone), single.parameters);
  const auto got = reference::gather_parameters(config, step.parameters);
  EXPECT_TRUE(near(expected.router_weight, got.router_weight, 0));
  for (std::size_t e = 0; e < expected.experts.size(); ++e) {
    EXPECT_TRUE(near(expected.experts[e].fc1, got.experts[e].fc1, 0)) << "expert " << e;
    EXPECT_TRUE(near(expected.experts[e].fc2, got.experts[e].fc2, 0)) << "expert " << e;
  }
}

TEST_P(MoeLayerTest, MicrobatchesMayBeInFlightTogether) {
  in_process(config.num_ranks(), [&](Communicator& comm) {
    MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm), 3);
    const Tensor first = share_of(hidden, comm.rank()), second = share_of(grad_output, comm.rank());
    const auto alone = [&](const Tensor& batch) {
      auto forward = layer.forward(batch);
      return rows_of(layer.backward(std::move(forward.context), {.output = batch, .aux_loss = 1}).hidden);
    };
    const Matrix expected_first = alone(first), expected_second = alone(second);
    auto a = layer.forward(first);
    auto b = layer.forward(second);
    EXPECT_TRUE(near(expected_second,
                     layer.backward(std::move(b.context), {.output = second, .aux_loss = 1}).hidden, 0));
    EXPECT_TRUE(near(expected_first,
                     layer.backward(std::move(a.context), {.output = first, .aux_loss = 1}).hidden, 0));
  });
}

TEST_P(MoeLayerTest, PermutedExpertsAreExpertsInOtherPlaces) {
  std::vector<int> permutation;  // expert e's tokens go to expert e + 5
  for (int e = 0; e < config.num_moe_experts; ++e) permutation.push_back((e + 5) % config.num_moe_experts);
  std::vector<MoeParameters<Tensor>> shares(static_cast<std::size_t>(config.num_ranks()));
  in_process(config.num_ranks(), [&](Communicator& comm) {
    MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm), 3);
    shares[static_cast<std::size_t>(comm.rank())] = layer.parameters();
    comm.barrier();
    auto moved = reference::gather_parameters(config, shares);
    std::rotate(moved.experts.begin(), moved.experts.begin() + 5, moved.experts.end());

    const Tensor mine = share_of(hidden, comm.rank()), grad = share_of(grad_output, comm.rank());
    auto forward = layer.forward(mine, {.expert_permutation = permutation});
    EXPECT_TRUE(near(reference::moe_layer(config, moved, rows_of(mine)).output, forward.output, 1e-12));
    const auto grads = layer.backward(std::move(forward.context), {.output = grad, .aux_loss = 1});
    const auto expected = reference::moe_layer_backward(config, moved, rows_of(mine), rows_of(grad), 1);
    EXPECT_TRUE(near(expected.hidden, grads.hidden, 1e-12));
    EXPECT_TRUE(near(expected.parameters.router_weight, grads.parameters.router_weight, 1e-12));
  });
}

TEST_P(MoeLayerTest, StridedTensorsGiveWhatTheirCopiesGive) {
  in_process(config.num_ranks(), [&](Communicator& comm) {
    MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm), 3);
    const Tensor dense = share_of(hidden, comm.rank());
    const Tensor by_columns =
        Tensor::from_memory(dense.data(), dense.shape(), {1, dense.size(0)}, dense.dtype());
    const auto run = [&](const Tensor& batch) {
      auto forward = layer.forward(batch);
      const auto grads = layer.backward(std::move(forward.context), {.output = batch, .aux_loss = 1});
      return std::pair{rows_of(forward.output), rows_of(grads.hidden)};
    };
    EXPECT_EQ(run(by_columns), run(by_columns.clone()));
  });
}

// Rows of a narrow type give nearly what the same values give as fp32.
template <typename Narrow>
void expect_close_to_fp32(MoeConfig config) {
  config.hidden_size = 8;
  config.params_dtype = DType::kFloat32;
  config.moe_router_dtype = DType::kFloat32;
  in_process(config.num_ranks(), [&](Communicator& comm) {
    MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm), 3);
    const Matrix exact = rows_of(random_tensor(testing::num_tokens_of(comm.rank()), 8, 1));
    Tensor narrow = Tensor::empty({static_cast<std::int64_t>(exact.size()), 8}, kDTypeOf<Narrow>);
    Tensor single = Tensor::empty(narrow.shape(), DType::kFloat32);
    for (std::size_t i = 0; i < exact.size() * 8; ++i) {
      narrow.values<Narrow>()[i] = Narrow(static_cast<float>(exact[i / 8][i % 8]));
      single.values<float>()[i] = static_cast<float>(narrow.values<Narrow>()[i]);
    }
    auto from_single = layer.forward(single), from_narrow = layer.forward(narrow);
    EXPECT_EQ(from_narrow.output.dtype(), kDTypeOf<Narrow>);
    EXPECT_TRUE(near(rows_of(from_single.output), from_narrow.output, 0.03));
    const auto single_grads =
        layer.backward(std::move(from_single.context), {.output = single, .aux_loss = 1});
    const auto narrow_grads =
        layer.backward(std::move(from_narrow.context), {.output = narrow, .aux_loss = 1});
    EXPECT_TRUE(near(rows_of(single_grads.hidden), narrow_grads.hidden, 0.06));
    EXPECT_TRUE(
        near(rows_of(single_grads.parameters.experts.fc1), narrow_grads.parameters.experts.fc1, 0.06));
  });
}

TEST_P(MoeLayerTest, NarrowTypesStayCloseToTheReference) {
  expect_close_to_fp32<BFloat16>(config);
  expect_close_to_fp32<Float16>(config);
}

TEST_P(MoeLayerTest, OverlapOfTheSharedExpertChangesNoBit) {
  config.moe_shared_expert_intermediate_size = 5;
  const Step apart = run_step(config, hidden, grad_output);
  config.moe_shared_expert_overlap = true;
  const Step beside = run_step(config, hidden, grad_output);
  EXPECT_TRUE(near(apart.output, beside.output, 0));
  EXPECT_TRUE(near(apart.grad_hidden, beside.grad_hidden, 0));
}

INSTANTIATE_TEST_SUITE_P(Divisions, MoeLayerTest, ::testing::ValuesIn(testing::all_divisions()),
                         [](const auto& division) { return testing::name_of(division.param); });

TEST(MoeLayerErrorTest, AConfigurationThatDiffersIsNamedOnEveryRank) {
  in_process(3, [](Communicator& comm) {
    MoeConfig config = config_of({.tp = 1, .ep = 3, .moe_permute_fusion = false});
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    config.moe_aux_loss_coeff = comm.rank() == 1 ? 0.5 : 0.25;
    try {
      MoeLayer(config, group, 3);
      FAIL() << "no error";
    } catch (const CollectiveMismatch& error) {
      EXPECT_EQ(error.field(), "moe_aux_loss_coeff");
      EXPECT_EQ(error.values(), (std::vector<std::string>{"0.25", "0.5", "0.25"}));
    }
    config.moe_aux_loss_coeff = 0.25;
    EXPECT_THROW(MoeLayer(config, group, static_cast<std::uint64_t>(comm.rank())), CollectiveMismatch);
    EXPECT_NO_THROW(MoeLayer(config, group, 3));
  });
}

TEST(MoeLayerErrorTest, AWrongArgumentOfOneRankIsAnErrorOnAllAndTheLayerGoesOn) {
  in_process(3, [](Communicator& comm) {
    const MoeConfig config = config_of({.tp = 1, .ep = 3, .moe_permute_fusion = true});
    MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(comm), 3);
    const Tensor good = random_tensor(2, kHidden, 1), bad = random_tensor(2, kHidden + 1, 1);
    const auto reject = [&](auto&& step) {
      if (comm.rank() == 1) return rejected_argument(step);
      try {
        step();
      } catch (const PeerError& error) {
        EXPECT_EQ(error.rank(), 1);
        return std::string(error.what());
      }
      return std::string("no error");
    };
    const std::string forward_error = reject([&] { layer.forward(comm.rank() == 1 ? bad : good); });
    EXPECT_NE(forward_error.find("hidden"), std::string::npos) << forward_error;
    auto forward = layer.forward(good);
    const std::string backward_error = reject([&] {
      auto other = layer.forward(good);
      layer.backward(std::move(other.context), {.output = comm.rank() == 1 ? bad : good, .aux_loss = 1});
    });
    EXPECT_NE(backward_error.find("output"), std::string::npos) << backward_error;
    const std::string permutation_error = reject(
        [&] { layer.forward(good, {.expert_permutation = std::vector<int>(comm.rank() == 1 ? 3 : 0)}); });
    EXPECT_NE(permutation_error.find("expert_permutation"), std::string::npos) << permutation_error;
    auto used = layer.forward(good);
    if (comm.rank() == 1) MoeContext(std::move(used.context));
    const std::string context_error =
        reject([&] { layer.backward(std::move(used.context), {.output = good, .aux_loss = 1}); });
    EXPECT_NE(context_error.find("context"), std::string::npos) << context_error;
    EXPECT_NO_THROW(layer.backward(std::move(forward.context), {.output = good, .aux_loss = 1}));
  });
}

TEST(MoeLayerErrorTest, WhatDoesNotFitIsNamed) {
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  const MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = false});
  MoeConfig bad = config;
  bad.moe_router_topk = 13;
  EXPECT_EQ(rejected_argument([&] { MoeLayer(bad, group, 3); }), "moe_router_topk");
  bad = config;
  bad.expert_model_parallel_size = 2;
  EXPECT_EQ(rejected_argument([&] { MoeLayer(bad, group, 3); }), "expert_model_parallel_size");

  MoeLayer layer(config, group, 3);
  const Tensor hidden = random_tensor(5, kHidden, 1);
  EXPECT_EQ(rejected_argument([&] { layer.forward(random_tensor(5, 6, 1)); }), "hidden");
  EXPECT_EQ(rejected_argument([&] {
              layer.forward(hidden, {.expert_permutation = {0, 0}});
            }),
            "expert_permutation");
  const auto reject_backward = [&](MoeContext& context, const Tensor& grad) {
    return rejected_argument([&] { layer.backward(std::move(context), {.output = grad, .aux_loss = 1}); });
  };
  auto forward = layer.forward(hidden);
  EXPECT_EQ(reject_backward(forward.context, random_tensor(4, kHidden, 1)), "output");
  forward = layer.forward(hidden);
  EXPECT_EQ(reject_backward(forward.context, Tensor::zeros(hidden.shape(), DType::kFloat32)), "output");
  forward = layer.forward(hidden);
  EXPECT_EQ(reject_backward(forward.context, hidden), "");
  EXPECT_EQ(reject_backward(forward.context, hidden), "context");
}

TEST(MoeLayerErrorTest, RowsAndParametersAreDoubleTogether) {
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = false});
  const Tensor wide = random_tensor(5, kHidden, 1), narrow = Tensor::zeros({5, kHidden}, DType::kFloat32);
  MoeLayer wide_layer(config, group, 3);
  EXPECT_EQ(wide_layer.parameters().experts.fc1.dtype(), DType::kFloat64);
  EXPECT_EQ(wide_layer.forward(wide).output.dtype(), DType::kFloat64);
  EXPECT_EQ(rejected_argument([&] { wide_layer.forward(narrow); }), "hidden");
  config.params_dtype = DType::kFloat32;
  MoeLayer narrow_layer(config, group, 3);
  EXPECT_EQ(narrow_layer.parameters().experts.fc1.dtype(), DType::kFloat32);
  EXPECT_EQ(narrow_layer.forward(narrow).output.dtype(), DType::kFloat32);
  EXPECT_EQ(rejected_argument([&] { narrow_layer.forward(wide); }), "hidden");
}

TEST(MoeLayerRouterTest, AReplayedForwardChoosesTheSameExperts) {
  MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = true});
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  const Tensor hidden = random_tensor(5, kHidden, 1);
  MoeLayer without(config, group, 3);
  const Tensor topk_idx = without.forward(hidden).topk_idx;
  EXPECT_EQ(rejected_argument([&] { without.forward(hidden, {.replay_topk_idx = topk_idx}); }),
            "replay_topk_idx");
  config.moe_enable_routing_replay = true;
  MoeLayer layer(config, group, 4);
  const auto forward = layer.forward(hidden, {.replay_topk_idx = topk_idx});
  EXPECT_EQ(rows_of(forward.topk_idx), rows_of(topk_idx));
}

TEST(MoeLayerRouterTest, TheExpertBiasMovesOnlyWhenItIsUpdated) {
  MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = true});
  config.moe_router_score_function = RouterScoreFunction::kSigmoid;
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  MoeLayer without(config, group, 3);
  without.update_expert_bias();
  EXPECT_TRUE(without.expert_bias().empty());
  config.moe_router_enable_expert_bias = true;
  config.moe_router_bias_update_rate = 0.5;
  MoeLayer layer(config, group, 3);
  const auto load = layer.forward(random_tensor(5, kHidden, 1)).tokens_per_expert;
  EXPECT_EQ(layer.expert_bias(), std::vector<double>(12));
  layer.update_expert_bias();
  for (std::size_t e = 0; e < load.size(); ++e)
    EXPECT_EQ(layer.expert_bias()[e], static_cast<double>(load[e]) > 1.25 ? -0.5 : 0.5);
}

TEST(MoeLayerRouterTest, TheGlobalLossRemembersEarlierMicrobatchesUntilItIsReset) {
  MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = true});
  config.moe_router_load_balancing_type = RouterLoadBalancing::kGlobalAuxLoss;
  config.moe_aux_loss_coeff = 0.5;
  MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(Communicator::self()), 3);
  const Tensor first = random_tensor(5, kHidden, 1), second = random_tensor(5, kHidden, 2);
  const double alone = layer.forward(second).aux_loss;
  layer.reset_global_aux_loss_tracker();
  layer.forward(first);
  EXPECT_NE(layer.forward(second).aux_loss, alone);
  layer.reset_global_aux_loss_tracker();
  EXPECT_EQ(layer.forward(second).aux_loss, alone);
}

TEST(MoeLayerRouterTest, JitterIsAnotherInEachForward) {
  MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = true});
  config.moe_input_jitter_eps = 0.25;
  MoeLayer layer(config, std::make_shared<ExpertParallelGroup>(Communicator::self()), 3);
  const Tensor hidden = random_tensor(5, kHidden, 1);
  EXPECT_NE(rows_of(layer.forward(hidden).output), rows_of(layer.forward(hidden).output));
}

TEST(MoeLayerBudgetTest, AStashedForwardThatWentOverBudgetIsDoneAgainWithout) {
  MoeConfig config = config_of({.tp = 1, .ep = 2, .moe_permute_fusion = true});
  config.moe_flex_dispatcher_backend = FlexDispatcherBackend::kHybridEp;
  config.params_dtype = DType::kFloat64;
  config.use_transformer_engine_op_fuser = true;  // a budget in multiples of 256 rows
  config.moe_expert_rank_capacity_factor = 0.01;
  in_process(2, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    const Tensor hidden = random_tensor(400, kHidden, 1);
    MoeLayer dropping(config, group, 3);
    const auto dropped = dropping.forward(hidden);
    EXPECT_EQ(dropped.over_budget, true);
    group->reset_over_budget();
    MoeConfig stashing = config, free = config;
    stashing.moe_paged_stash = true;
    free.moe_expert_rank_capacity_factor.reset();
    const auto stashed = MoeLayer(stashing, group, 3).forward(hidden);
    const auto expected = MoeLayer(free, group, 3).forward(hidden);
    EXPECT_EQ(rows_of(stashed.output), rows_of(expected.output));
    EXPECT_NE(rows_of(dropped.output), rows_of(expected.output));
  });
}

TEST(MoeLayerLoadTest, CountsAndSecondsAddUp) {
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  MoeLayer layer(config_of({.tp = 1, .ep = 1, .moe_permute_fusion = true}), group, 3);
  const auto forward = layer.forward(random_tensor(5, kHidden, 1));
  std::int64_t num_pairs = 0;
  for (const auto count : forward.tokens_per_expert) num_pairs += count;
  EXPECT_EQ(num_pairs, 5 * 3);
  const auto& seconds = layer.seconds();
  EXPECT_GT(seconds.router, 0);
  EXPECT_GT(seconds.dispatch, 0);
  EXPECT_GT(seconds.experts, 0);
  EXPECT_GT(seconds.combine, 0);
}

}  // namespace
}  // namespace flexep::moe
