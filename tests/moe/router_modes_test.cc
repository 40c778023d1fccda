// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "finite_differences.h"
#include "flexep/moe/router.h"
#include "matrices.h"
#include "support/tensors.h"

/// What steers a router besides its weights: biases, randomness, replay, sinkhorn.
namespace flexep::moe {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using testing::finite_differences;
using testing::near;
using testing::random_tensor;
using testing::rejected_argument;
using testing::rows_of;

constexpr std::int64_t kTokens = 24, kExperts = 6, kHidden = 4;

MoeConfig base_config() {
  return {.hidden_size = kHidden,
          .num_moe_experts = kExperts,
          .moe_ffn_hidden_size = 1,
          .moe_router_topk = 2,
          .moe_router_score_function = RouterScoreFunction::kSigmoid,
          .moe_router_dtype = DType::kFloat64,
          .params_dtype = DType::kFloat64};
}

MoeConfig with(const std::function<void(MoeConfig&)>& change) {
  MoeConfig config = base_config();
  change(config);
  return config;
}

const Tensor kHiddenRows = random_tensor(kTokens, kHidden, 1);
const Tensor kWeight = random_tensor(kExperts, kHidden, 2);

RouterForward route(const MoeConfig& config, const RouterInput& input = {}) {
  auto comm = Communicator::self();
  return router_forward(config, comm, kHiddenRows, kWeight, input);
}

// All ranks' probabilities when `bounds` divide the tokens between them.
testing::Matrix divided_probs(const MoeConfig& config, const std::vector<std::int64_t>& bounds) {
  std::vector<testing::Matrix> parts(bounds.size() - 1);
  in_process(static_cast<int>(parts.size()), [&](Communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    parts[rank] = rows_of(router_forward(config, comm, kHiddenRows.rows(bounds[rank], bounds[rank + 1]),
                                         kWeight, {.random_key = 7})
                              .probs);
  });
  testing::Matrix all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(ExpertBiasTest, ChoosesButDoesNotWeigh) {
  const MoeConfig config = with([](MoeConfig& c) { c.moe_router_enable_expert_bias = true; });
  const auto plain = route(config);
  const auto biased = route(config, {.expert_bias = {10, 10, 0, 0, 0, 0}});
  EXPECT_EQ(biased.tokens_per_expert, (std::vector<std::int64_t>{kTokens, kTokens, 0, 0, 0, 0}));
  const auto scores = biased.context.scores.values<double>(), probs = biased.probs.values<double>();
  for (std::size_t t = 0; t < kTokens; ++t)
    EXPECT_NEAR(probs[t * kExperts], scores[t * kExperts] / (scores[t * kExperts] + scores[t * kExperts + 1]),
                1e-14);
  EXPECT_NE(plain.tokens_per_expert, biased.tokens_per_expert);
}

TEST(ExpertBiasTest, AnUpdateMovesTowardsTheMeanOfAllRanks) {
  const MoeConfig config = with([](MoeConfig& c) { c.moe_router_bias_update_rate = 0.5; });
  in_process(2, [&](Communicator& comm) {
    const std::vector<std::int64_t> mine =
        comm.rank() == 0 ? std::vector<std::int64_t>{6, 0, 3} : std::vector<std::int64_t>{0, 0, 0};
    EXPECT_EQ(updated_expert_bias(config, comm, {1, 2, 3}, mine), (std::vector<double>{0.5, 2.5, 3}));
  });
}

TEST(ExpertBiasTest, UpdatesEvenOutTheLoad) {
  const MoeConfig config = with([](MoeConfig& c) { c.moe_router_bias_update_rate = 0.01; });
  auto comm = Communicator::self();
  const auto spread = [](const std::vector<std::int64_t>& load) {
    return *std::max_element(load.begin(), load.end()) - *std::min_element(load.begin(), load.end());
  };
  std::vector<double> bias(kExperts);
  const auto before = spread(route(config, {.expert_bias = bias}).tokens_per_expert);
  for (int step = 0; step < 60; ++step)
    bias = updated_expert_bias(config, comm, bias, route(config, {.expert_bias = bias}).tokens_per_expert);
  EXPECT_LT(spread(route(config, {.expert_bias = bias}).tokens_per_expert), before);
}

TEST(JitterTest, IsTheSameForAnyDivisionOverRanks) {
  const MoeConfig config = with([](MoeConfig& c) { c.moe_input_jitter_eps = 0.25; });
  const auto whole = rows_of(route(config, {.random_key = 7}).probs);
  EXPECT_EQ(whole, divided_probs(config, {0, 5, 5, kTokens}));
  EXPECT_NE(whole, rows_of(route(config, {.random_key = 8}).probs));
  EXPECT_NE(whole, rows_of(route(base_config()).probs));
}

TEST(JitterTest, FactorsStayWithinEpsAndGradientsPassThem) {
  const MoeConfig config = with([](MoeConfig& c) { c.moe_input_jitter_eps = 0.25; });
  const auto result = route(config, {.random_key = 7});
  for (const double factor : result.context.input_factors.values<double>()) {
    EXPECT_GE(factor, 0.75);
    EXPECT_LE(factor, 1.25);
  }
  const Tensor grad = random_tensor(kTokens, kExperts, 3);
  const auto grads = router_backward(config, kWeight, result.context, {.probs = grad, .aux_loss = 1});
  const auto loss = [&] {
    const auto probs = route(config, {.random_key = 7}).probs;
    return std::inner_product(probs.values<double>().begin(), probs.values<double>().end(),
                              grad.values<double>().begin(), 0.0);
  };
  EXPECT_TRUE(near(finite_differences(kHiddenRows, loss), grads.hidden, 1e-7));
  EXPECT_TRUE(near(finite_differences(kWeight, loss), grads.weight, 1e-7));
}

TEST(ForcedLoadTest, RandomLogitsSpreadTokensWhateverTheWeights) {
  const MoeConfig config = with([](MoeConfig& c) { c.moe_router_force_load_balancing = true; });
  auto comm = Communicator::self();
  const auto result = router_forward(config, comm, Tensor::zeros({600, kHidden}, DType::kFloat64), kWeight);
  for (const auto tokens : result.tokens_per_expert) EXPECT_NEAR(static_cast<double>(tokens), 200, 60);
  EXPECT_EQ(rows_of(route(config, {.random_key = 7}).probs), divided_probs(config, {0, 9, kTokens}));
}

TEST(ForcedLoadTest, ABiasIsDrawnAtEachForwardOrOnce) {
  const auto loads = [](double deviation, std::uint64_t key) {
    const MoeConfig config = with([=](MoeConfig& c) { c.moe_router_force_biased = deviation; });
    return route(config, {.random_key = key}).tokens_per_expert;
  };
  EXPECT_NE(loads(20, 1), loads(20, 2));
  EXPECT_EQ(loads(-20, 1), loads(-20, 2));
  EXPECT_NE(loads(-20, 1), route(base_config()).tokens_per_expert);
  const auto crowded = loads(100, 1);
  EXPECT_EQ(std::count(crowded.begin(), crowded.end(), 0), kExperts - 2);
}

TEST(ReplayTest, TheRecordedChoiceIsTakenAgain) {
  const MoeConfig config = with([](MoeConfig& c) { c.moe_enable_routing_replay = true; });
  auto comm = Communicator::self();
  const auto recorded = route(config);
  const Tensor other_weight = random_tensor(kExperts, kHidden, 9);
  const auto replayed =
      router_forward(config, comm, kHiddenRows, other_weight, {.replay_topk_idx = recorded.topk_idx});
  EXPECT_EQ(values_of<std::int32_t>(recorded.routing_map), values_of<std::int32_t>(replayed.routing_map));
  EXPECT_NE(values_of<double>(recorded.probs), values_of<double>(replayed.probs));
  EXPECT_EQ(rows_of(recorded.probs), rows_of(route(config, {.replay_topk_idx = recorded.topk_idx}).probs));
}

TEST(SinkhornTest, ChoosesEvenlyWhereLogitsAreNot) {
  MoeConfig even = with([](MoeConfig& c) {
    c.moe_router_load_balancing_type = RouterLoadBalancing::kSinkhorn;
    c.moe_router_topk = 1;
  });
  const MoeConfig plain = with([](MoeConfig& c) { c.moe_router_topk = 1; });
  const auto busiest = [](const RouterForward& result) {
    return *std::max_element(result.tokens_per_expert.begin(), result.tokens_per_expert.end());
  };
  const auto result = route(even);
  EXPECT_LE(busiest(result), 2 * kTokens / kExperts);
  EXPECT_LT(busiest(result), busiest(route(plain)));
  // The probability is a sigmoid of the logit, not what chose.
  const std::int64_t expert = result.topk_idx.data<std::int64_t>()[0];
  EXPECT_EQ(result.probs.data<double>()[expert], result.context.scores.data<double>()[expert]);
  even.moe_router_topk = 2;
  const Tensor scores = route(even).context.scores.rows(0, 1);
  double sum = 0;
  for (const double score : scores.values<double>()) sum += score;
  EXPECT_NEAR(sum, 1, 1e-14);
}

TEST(RouterInputTest, WhatDoesNotFitIsNamed) {
  const MoeConfig replaying = with([](MoeConfig& c) { c.moe_enable_routing_replay = true; });
  const auto reject = [](const MoeConfig& config, const RouterInput& input) {
    return rejected_argument([&] { route(config, input); });
  };
  const Tensor idx = Tensor::zeros({kTokens, 2}, DType::kInt64), bad = idx.clone();
  bad.data<std::int64_t>()[3] = kExperts;
  EXPECT_EQ(reject(base_config(), {.replay_topk_idx = idx}), "replay_topk_idx");
  EXPECT_EQ(reject(replaying, {.replay_topk_idx = idx.rows(0, 1)}), "replay_topk_idx");
  EXPECT_EQ(reject(replaying, {.replay_topk_idx = bad}), "replay_topk_idx");
  EXPECT_EQ(reject(base_config(), {.expert_bias = {1, 2}}), "expert_bias");
  EXPECT_EQ(reject(base_config(), {.past_tokens_per_expert = {1}}), "past_tokens_per_expert");
  EXPECT_EQ(reject(base_config(), {.num_sequences = 5}), "num_sequences");
}

}  // namespace
}  // namespace flexep::moe
