// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/trainer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace moe_lm {
namespace {

constexpr std::int64_t kNumSteps = 50;

Options options_for(int num_ranks) {
  Options options = {.num_steps = kNumSteps, .batch_size = 256, .heldout_samples = 512};
  options.moe = {.hidden_size = 64,
                 .num_moe_experts = 16,
                 .moe_ffn_hidden_size = 64,
                 .expert_model_parallel_size = num_ranks,
                 .moe_aux_loss_coeff = 0.1,
                 .moe_token_dispatcher_type = flexep::moe::TokenDispatcherType::kFlex,
                 .moe_flex_dispatcher_backend = flexep::moe::FlexDispatcherBackend::kDeepEpV2,
                 .moe_permute_fusion = true,
                 .init_method_std = 0.05};
  return options;
}

const Corpus& corpus() {
  static const Corpus corpus = split_text(read_text(default_text_files(), 1 << 20));
  return corpus;
}

TrainingResult train(const Options& options) {
  TrainingResult result;
  flexep::in_process(options.num_ranks, [&](flexep::Communicator& comm) {
    TrainingResult mine = Trainer(comm, options, corpus()).run([](const Progress&) {});
    if (comm.rank() == 0) result = std::move(mine);
  });
  return result;
}

TrainingResult train(int num_ranks) {
  Options options = options_for(num_ranks);
  options.num_ranks = num_ranks;
  return train(options);
}

/// With unequal shares, too.
class TrainerRanksTest : public ::testing::TestWithParam<int> {};

TEST_P(TrainerRanksTest, LearnLikeOneRank) {
  static const TrainingResult alone = train(1);
  const TrainingResult spread = train(GetParam());
  ASSERT_EQ(spread.train_loss.size(), static_cast<std::size_t>(kNumSteps));
  for (std::size_t step = 0; step < spread.train_loss.size(); ++step) {
    EXPECT_NEAR(spread.train_loss[step], alone.train_loss[step], 1e-4 * alone.train_loss[step])
        << "step " << step;
  }
  EXPECT_LT(spread.train_loss.back(), spread.train_loss.front());
}

INSTANTIATE_TEST_SUITE_P(Trainer, TrainerRanksTest, ::testing::Values(2, 4),
                         ::testing::PrintToStringParamName());

struct Dispatcher {
  flexep::moe::TokenDispatcherType type;
  flexep::moe::FlexDispatcherBackend backend;
  const char* name;
  bool moe_permute_fusion = true;
};

class TrainerDispatcherTest : public ::testing::TestWithParam<Dispatcher> {};

Options options_with(flexep::moe::TokenDispatcherType type, flexep::moe::FlexDispatcherBackend backend) {
  Options options = options_for(2);
  options.num_ranks = 2;
  options.moe.moe_token_dispatcher_type = type;
  options.moe.moe_flex_dispatcher_backend = backend;
  if (backend == flexep::moe::FlexDispatcherBackend::kNcclEp)
    options.moe.moe_expert_rank_capacity_factor = 2;  // room for every pair of two ranks
  return options;
}

TEST_P(TrainerDispatcherTest, LearnsLikeAllToAll) {
  static const TrainingResult alltoall = train(
      options_with(flexep::moe::TokenDispatcherType::kAllToAll, flexep::moe::FlexDispatcherBackend::kDeepEp));
  Options options = options_with(GetParam().type, GetParam().backend);
  options.moe.moe_permute_fusion = GetParam().moe_permute_fusion;
  const TrainingResult other = train(options);
  ASSERT_EQ(other.train_loss.size(), static_cast<std::size_t>(kNumSteps));
  for (std::size_t step = 0; step < other.train_loss.size(); ++step)
    EXPECT_NEAR(other.train_loss[step], alltoall.train_loss[step], 1e-4) << "step " << step;
}

using flexep::moe::FlexDispatcherBackend;
using flexep::moe::TokenDispatcherType;
INSTANTIATE_TEST_SUITE_P(
    Trainer, TrainerDispatcherTest,
    ::testing::Values(Dispatcher{TokenDispatcherType::kAllGather, FlexDispatcherBackend::kDeepEp,
                                 "AllGather"},
                      Dispatcher{TokenDispatcherType::kFlex, FlexDispatcherBackend::kDeepEp, "DeepEp"},
                      Dispatcher{TokenDispatcherType::kFlex, FlexDispatcherBackend::kDeepEpV2, "DeepEpV2"},
                      Dispatcher{TokenDispatcherType::kFlex, FlexDispatcherBackend::kDeepEpV2,
                                 "DeepEpV2WithoutFusion", false},
                      Dispatcher{TokenDispatcherType::kFlex, FlexDispatcherBackend::kHybridEp, "HybridEp"},
                      Dispatcher{TokenDispatcherType::kFlex, FlexDispatcherBackend::kNcclEp, "NcclEp"}),
    [](const auto& dispatcher) { return dispatcher.param.name; });

TEST(TrainerTest, TrainsWhatEveryOptionAddsToTheModel) {
  Options options = options_for(2);
  options.num_ranks = 2;
  options.moe.moe_latent_size = 32;
  options.moe.moe_shared_expert_intermediate_size = 16;
  options.moe.moe_shared_expert_gate = true;
  options.moe.moe_shared_expert_overlap = true;
  options.moe.moe_router_score_function = flexep::moe::RouterScoreFunction::kSigmoid;
  options.moe.moe_router_enable_expert_bias = true;
  options.moe.moe_router_load_balancing_type = flexep::moe::RouterLoadBalancing::kGlobalAuxLoss;
  options.moe.moe_z_loss_coeff = 0.001;
  options.moe.moe_input_jitter_eps = 0.01;
  options.moe.moe_expert_capacity_factor = 1.5;
  options.learning_rate = 0.02;
  const std::vector<double> loss = train(options).train_loss;
  EXPECT_LT(std::accumulate(loss.end() - 10, loss.end(), 0.0) / 10, loss.front() - 1);
}

TEST(TrainerTest, RanksMayHaveNothingToDo) {
  Options options = options_for(4);
  options.num_steps = 2;
  options.batch_size = 3;
  options.heldout_samples = 2;
  EXPECT_EQ(train(options).train_loss.size(), 2U);
}

TEST(TrainerTest, ReportsProgressUpToTheLastStep) {
  Options options = options_for(1);
  options.num_ranks = 1;
  options.num_steps = 41;
  const TrainingResult result = train(options);
  ASSERT_EQ(result.progress.size(), 21U);
  EXPECT_EQ(result.progress.front().step, 2);
  EXPECT_EQ(result.progress.back().step, 41);
}

}  // namespace
}  // namespace moe_lm
