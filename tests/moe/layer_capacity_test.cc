// SPDX-License-Identifier: Apache-2.0
//
// Capacity in a whole layer over several ranks: of an expert (factor, policy, padding), and of a rank.
#include <gtest/gtest.h>

#include "dispatcher_cases.h"
#include "layer_step.h"

namespace flexep::moe {
namespace {

using testing::all_dispatchers;
using testing::DispatcherKind;
using testing::Division;
using testing::kGradAuxLoss;
using testing::LayerBatch;
using testing::Matrix;
using testing::near;
using testing::random_batch;
using testing::rows_of;
using testing::Step;

constexpr double kTolerance = 1e-12;

// 12 experts, top 3, hidden 4, fp64.
MoeConfig config_of(const Division& division, const DispatcherKind& kind) {
  MoeConfig config = testing::config_of(division);
  config.moe_token_dispatcher_type = kind.type;
  config.moe_flex_dispatcher_backend = kind.backend;
  config.moe_permute_fusion = kind.moe_permute_fusion;
  // Room for everybody's tokens on one rank.
  if (kind.backend == FlexDispatcherBackend::kNcclEp)
    config.moe_expert_rank_capacity_factor = config.num_ranks();
  return config;
}

void add_to(Matrix& sum, const Matrix& addend) {
  for (std::size_t i = 0; i < sum.size(); ++i)
    for (std::size_t j = 0; j < sum[i].size(); ++j) sum[i][j] += addend[i][j];
}

void append_to(Matrix& all, const Matrix& rows) {
  all.insert(all.end(), rows.begin(), rows.end());
}

struct Expected {
  Matrix output, grad_hidden;   // all ranks' tokens
  reference::Parameters grads;  // of router and experts
};

// What the reference makes of each rank's tokens alone, `shares` being what counts of them: an expert's
// capacity is by rank. No loss is to couple the ranks.
Expected expected_of(const MoeConfig& config, const std::vector<MoeParameters<Tensor>>& parameters,
                     const std::vector<std::pair<Matrix, Matrix>>& shares) {
  const auto whole = reference::gather_parameters(config, parameters);
  Expected expected;
  for (const auto& [hidden, grad_output] : shares) {
    if (hidden.empty()) continue;
    append_to(expected.output, reference::moe_layer(config, whole, hidden).output);
    const auto grads = reference::moe_layer_backward(config, whole, hidden, grad_output, kGradAuxLoss);
    append_to(expected.grad_hidden, grads.hidden);
    if (expected.grads.experts.empty()) {
      expected.grads = grads.parameters;
      continue;
    }
    add_to(expected.grads.router_weight, grads.parameters.router_weight);
    for (std::size_t e = 0; e < expected.grads.experts.size(); ++e) {
      add_to(expected.grads.experts[e].fc1, grads.parameters.experts[e].fc1);
      add_to(expected.grads.experts[e].fc2, grads.parameters.experts[e].fc2);
    }
  }
  return expected;
}

void expect_equal(const MoeConfig& config, const Expected& expected, const Step& step) {
  EXPECT_TRUE(near(expected.output, step.output, kTolerance));
  EXPECT_TRUE(near(expected.grad_hidden, step.grad_hidden, kTolerance));
  EXPECT_TRUE(near(expected.grads.router_weight, testing::sum_of_router_grads(step), kTolerance));
  testing::expect_equal_expert_grads(config, step, expected.grads, kTolerance);
}

class LayerCapacityTest : public ::testing::TestWithParam<Division> {
 protected:
  // Ragged: capacities are ceil(T * 3 / 12 * 0.8) = 1, 0, 1 and 2.
  LayerBatch batch = random_batch({5, 0, 3, 7}, 4);

  void SetUp() override {
    const Division& division = GetParam();
    batch.num_tokens.resize(static_cast<std::size_t>(division.tp * division.ep));
  }

  void check_all(TokenDropPolicy policy, bool pads) {
    for (const DispatcherKind& kind : all_dispatchers()) {
      if (pads && kind.is_deepep_family()) continue;  // refused by validate()
      SCOPED_TRACE(kind.name);
      MoeConfig config = config_of(GetParam(), kind);
      config.moe_expert_capacity_factor = 0.8;
      config.moe_token_drop_policy = policy;
      config.moe_pad_expert_input_to_capacity = pads;
      const Step step = testing::run_step(config, batch);
      std::vector<std::pair<Matrix, Matrix>> shares;
      for (int rank = 0; rank < config.num_ranks(); ++rank)
        shares.emplace_back(rows_of(batch.share(batch.hidden, rank)),
                            rows_of(batch.share(batch.grad_output, rank)));
      expect_equal(config, expected_of(config, step.parameters, shares), step);
    }
  }
};

TEST_P(LayerCapacityTest, TheMostProbableTokensStay) {
  check_all(TokenDropPolicy::kProbs, /*pads=*/false);
}

TEST_P(LayerCapacityTest, TheFirstTokensStay) {
  check_all(TokenDropPolicy::kPosition, /*pads=*/false);
}

TEST_P(LayerCapacityTest, PaddingToCapacityChangesNoResult) {
  check_all(TokenDropPolicy::kProbs, /*pads=*/true);
  check_all(TokenDropPolicy::kPosition, /*pads=*/true);
}

TEST_P(LayerCapacityTest, PaddedExpertsGetExactlyTheirCapacityOfEachRank) {
  const Division division = GetParam();
  in_process(division.tp * division.ep, [&](Communicator& comm) {
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    for (const DispatcherKind& kind : all_dispatchers()) {
      if (!kind.reads_map()) continue;  // goes by probabilities, and those of padding are 0
      MoeConfig config = config_of(division, kind);
      config.moe_expert_capacity_factor = 0.8;
      config.moe_pad_expert_input_to_capacity = true;
      const Tensor hidden = batch.share(batch.hidden, comm.rank());
      const auto routed = router_forward(config, comm, hidden, testing::random_tensor(12, 4, 3));
      const auto dispatcher = make_token_dispatcher(config, group);
      const auto grouped = dispatcher->dispatch_postprocess(dispatcher->token_dispatch(
          dispatcher->dispatch_preprocess({.hidden = hidden, .probs = routed.probs}, routed.routing_map)));
      std::int64_t capacity = 0;
      for (const std::int64_t count : batch.num_tokens) capacity += expert_capacity(count * 3, 12, 0.8);
      for (const int count : grouped.tokens_per_expert) EXPECT_EQ(count, capacity) << kind.name;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Divisions, LayerCapacityTest,
                         ::testing::Values(Division{1, 1, false}, Division{1, 3, false},
                                           Division{1, 4, false}, Division{2, 2, false}),
                         [](const auto& division) {
                           return fmt::format("Tp{}Ep{}", division.param.tp, division.param.ep);
                         });

// All tokens choose experts 0, 1 and 2, with a third each. @return what is expected when only the first
// `num_kept` of all ranks' tokens are worth anything.
void check_rank_capacity(const MoeConfig& config, const LayerBatch& batch, std::size_t num_kept) {
  const Step step = testing::run_step(config, batch, [](MoeLayer& layer) {
    std::ranges::fill(layer.parameters().router_weight.values<double>(), 0.0);
  });
  const Matrix hidden = rows_of(batch.hidden), grad_output = rows_of(batch.grad_output);
  ASSERT_LT(num_kept, hidden.size());
  const auto end = static_cast<std::ptrdiff_t>(num_kept);
  Expected expected = expected_of(config, step.parameters,
                                  {{Matrix(hidden.begin(), hidden.begin() + end),
                                    Matrix(grad_output.begin(), grad_output.begin() + end)}});
  expected.output.resize(hidden.size(), testing::Row(4));
  expected.grad_hidden.resize(hidden.size(), testing::Row(4));
  expect_equal(config, expected, step);
}

TEST(LayerRankCapacityTest, WhatHybridEpDropsHasNoOutputAndNoGradient) {
  // 256 rows for three experts: the first 85 tokens.
  MoeConfig config = config_of({1, 2, false}, all_dispatchers()[5]);
  config.use_transformer_engine_op_fuser = true;
  config.moe_expert_rank_capacity_factor = 0.5;
  check_rank_capacity(config, random_batch({60, 40}, 4), 85);
}

TEST(LayerRankCapacityTest, WhatNcclEpDropsHasNoOutputAndNoGradient) {
  // 64 * 3 * 0.15 = 28 rows for three experts: the first 9 tokens.
  MoeConfig config = config_of({1, 4, false}, all_dispatchers()[6]);
  config.moe_expert_rank_capacity_factor = 0.15;
  config.moe_ncclep_drop_on_overflow = true;
  check_rank_capacity(config, random_batch({5, 0, 3, 7}, 4), 9);
}

TEST(LayerRankCapacityTest, ExpertAndRankCapacityGoTogether) {
  // Capacity 20 * 3 / 12 * 1.6 = 8 of each rank's 20 tokens for an expert: 48 rows, of which all fit.
  MoeConfig config = config_of({1, 2, false}, all_dispatchers()[6]);
  config.moe_expert_capacity_factor = 1.6;
  config.moe_token_drop_policy = TokenDropPolicy::kPosition;
  config.moe_respect_routing_map = true;
  config.moe_expert_rank_capacity_factor = 0.25;  // 64 * 3 * 0.25 = 48
  const LayerBatch batch = random_batch({20, 20}, 4);
  const Step step = testing::run_step(config, batch, [](MoeLayer& layer) {
    std::ranges::fill(layer.parameters().router_weight.values<double>(), 0.0);
  });
  std::vector<std::pair<Matrix, Matrix>> shares;
  for (int rank = 0; rank < 2; ++rank)
    shares.emplace_back(rows_of(batch.share(batch.hidden, rank)),
                        rows_of(batch.share(batch.grad_output, rank)));
  expect_equal(config, expected_of(config, step.parameters, shares), step);
}

}  // namespace
}  // namespace flexep::moe
