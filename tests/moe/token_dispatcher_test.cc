// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/token_dispatcher.h"

#include <gtest/gtest.h>

#include <cmath>

#include "expert_groups.h"
#include "support/tensors.h"

namespace flexep::moe {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using testing::config_of;
using testing::Division;
using testing::inner_product;
using testing::Matrix;
using testing::near;
using testing::num_tokens_of;
using testing::num_tokens_of_all;
using testing::random_matrix;
using testing::random_tensor;
using testing::rejected_argument;
using testing::rows_of;
using testing::share_of;
using testing::sum_over_ranks;

constexpr std::int64_t kHidden = 4, kExperts = 12;

using Group = std::shared_ptr<ExpertParallelGroup>;

// One microbatch between its forward and its backward.
struct Microbatch {
  std::unique_ptr<TokenDispatcher> dispatcher;
  GroupedTokens grouped;
};

Microbatch dispatch(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group,
                    const Tokens& tokens) {
  auto dispatcher = make_token_dispatcher(config, std::move(group));
  const Tensor routing_map = Tensor::zeros(tokens.probs.shape(), DType::kInt32);
  const auto local = dispatcher->dispatch_preprocess(tokens, routing_map);
  auto grouped = dispatcher->dispatch_postprocess(dispatcher->token_dispatch(local));
  return {std::move(dispatcher), std::move(grouped)};
}

TokenGradients dispatch_backward(Microbatch& batch, const TokenGradients& grads) {
  auto& dispatcher = *batch.dispatcher;
  return dispatcher.dispatch_preprocess_backward(
      dispatcher.token_dispatch_backward(dispatcher.dispatch_postprocess_backward(grads)));
}

Tensor combine(Microbatch& batch, const Tensor& rows) {
  auto& dispatcher = *batch.dispatcher;
  return dispatcher.combine_postprocess(dispatcher.token_combine(dispatcher.combine_preprocess(rows)));
}

Tensor combine_backward(Microbatch& batch, const Tensor& grad) {
  auto& dispatcher = *batch.dispatcher;
  return dispatcher.combine_preprocess_backward(
      dispatcher.token_combine_backward(dispatcher.combine_postprocess_backward(grad)));
}

class TokenDispatcherTest : public ::testing::TestWithParam<Division> {
 protected:
  const MoeConfig config = config_of(GetParam());
  const int num_ranks = config.num_ranks();
  const Tensor hidden = random_tensor(num_tokens_of_all(num_ranks), kHidden, 1);
  const Tensor probs = random_tensor(num_tokens_of_all(num_ranks), kExperts, 2);

  // body(comm, group, this rank's tokens) on each rank.
  template <typename Body>
  void on_every_rank(Body&& body) {
    in_process(num_ranks, [&](Communicator& comm) {
      auto group = std::make_shared<ExpertParallelGroup>(comm);
      body(comm, group,
           Tokens{.hidden = share_of(hidden, comm.rank()), .probs = share_of(probs, comm.rank())});
    });
  }

  // Whether expert is among the top k of a token's probs.
  bool is_chosen(const reference::Row& token_probs, std::size_t expert) const {
    int num_better = 0;
    for (std::size_t other = 0; other < token_probs.size(); ++other)
      num_better += token_probs[other] > token_probs[expert] ||
                    (token_probs[other] == token_probs[expert] && other < expert);
    return num_better < config.moe_router_topk;
  }
};

TEST_P(TokenDispatcherTest, RowsArriveGroupedByExpertInTheOrderOfSourceRankAndToken) {
  const Matrix all_hidden = rows_of(hidden), all_probs = rows_of(probs);
  on_every_rank([&](Communicator& comm, const Group& group, const Tokens& tokens) {
    const auto batch = dispatch(config, group, tokens);
    const int first_expert = comm.rank() / config.expert_tensor_parallel_size * config.num_local_experts();
    Matrix expected_hidden, expected_probs;
    std::vector<std::int32_t> expected_counts;
    for (int local = 0; local < config.num_local_experts(); ++local) {
      const std::size_t before = expected_hidden.size(),
                        expert = static_cast<std::size_t>(first_expert + local);
      for (std::size_t token = 0; token < all_hidden.size(); ++token) {
        if (!is_chosen(all_probs[token], expert)) continue;
        expected_hidden.push_back(all_hidden[token]);
        expected_probs.push_back({all_probs[token][expert]});
      }
      expected_counts.push_back(static_cast<std::int32_t>(expected_hidden.size() - before));
    }
    EXPECT_TRUE(near(expected_hidden, batch.grouped.tokens.hidden, 0));
    EXPECT_TRUE(near(expected_probs, batch.grouped.tokens.probs, 0));
    EXPECT_EQ(expected_counts, batch.grouped.tokens_per_expert);
  });
}

TEST_P(TokenDispatcherTest, CombineSumsOneRowForEachExpertAndTensorRank) {
  on_every_rank([&](Communicator&, const Group& group, const Tokens& tokens) {
    auto batch = dispatch(config, group, tokens);
    Matrix expected = rows_of(tokens.hidden);
    for (auto& row : expected)
      for (auto& value : row) value *= config.moe_router_topk * config.expert_tensor_parallel_size;
    EXPECT_TRUE(near(expected, combine(batch, batch.grouped.tokens.hidden), 0));
  });
}

TEST_P(TokenDispatcherTest, BackwardsAreTheTransposesOfTheirForwards) {
  on_every_rank([&](Communicator& comm, const Group& group, const Tokens& tokens) {
    auto batch = dispatch(config, group, tokens);
    const auto& rows = batch.grouped.tokens;
    const auto seed = static_cast<std::uint64_t>(comm.rank());
    const Tensor grad_rows = random_tensor(rows.hidden.size(0), kHidden, 10 + seed);
    const Tensor grad_probs = random_tensor(1, rows.hidden.size(0), 20 + seed).reshape({rows.hidden.size(0)});
    const auto back = dispatch_backward(batch, {.hidden = grad_rows, .probs = grad_probs});
    EXPECT_EQ(sum_over_ranks(comm, inner_product(rows.hidden, grad_rows)),
              sum_over_ranks(comm, inner_product(tokens.hidden, back.hidden)));
    EXPECT_EQ(sum_over_ranks(comm, inner_product(rows.probs, grad_probs)),
              sum_over_ranks(comm, inner_product(tokens.probs, back.probs)));

    const Tensor expert_output = random_tensor(rows.hidden.size(0), kHidden, 30 + seed);
    const Tensor grad_sums = random_tensor(tokens.hidden.size(0), kHidden, 40 + seed);
    const Tensor sums = combine(batch, expert_output), grad_output = combine_backward(batch, grad_sums);
    EXPECT_EQ(sum_over_ranks(comm, inner_product(sums, grad_sums)),
              sum_over_ranks(comm, inner_product(expert_output, grad_output)));
  });
}

TEST_P(TokenDispatcherTest, GradientsOfPairsThatWereNotSentAreZero) {
  on_every_rank([&](Communicator&, const Group& group, const Tokens& tokens) {
    auto batch = dispatch(config, group, tokens);
    const auto back = dispatch_backward(
        batch, {.hidden = batch.grouped.tokens.hidden, .probs = batch.grouped.tokens.probs});
    const Matrix all_probs = rows_of(tokens.probs), grads = rows_of(back.probs);
    for (std::size_t token = 0; token < grads.size(); ++token)
      for (std::size_t expert = 0; expert < grads[token].size(); ++expert)
        if (!is_chosen(all_probs[token], expert)) {
          EXPECT_EQ(grads[token][expert], 0);
        }
  });
}

TEST_P(TokenDispatcherTest, MicrobatchesInFlightDoNotDisturbEachOther) {
  on_every_rank([&](Communicator&, const Group& group, const Tokens& tokens) {
    const Tokens other{
        .hidden =
            tokens.probs.rows(0, tokens.probs.size(0)).clone().reshape({tokens.probs.size(0) * 3, kHidden}),
        .probs = random_tensor(tokens.probs.size(0) * 3, kExperts, 7)};
    auto alone = dispatch(config, group, tokens);
    const Tensor expected = combine_backward(alone, combine(alone, alone.grouped.tokens.hidden));

    auto first = dispatch(config, group, tokens);
    auto second = dispatch(config, group, other);
    const Tensor first_output = combine(first, first.grouped.tokens.hidden);
    const Tensor second_output = combine(second, second.grouped.tokens.hidden);
    combine_backward(second, second_output);
    EXPECT_TRUE(near(rows_of(expected), combine_backward(first, first_output), 0));
  });
}

TEST_P(TokenDispatcherTest, NothingIsStagedWhenExpertsWriteWhereTheyAreTold) {
  on_every_rank([&](Communicator&, const Group& group, const Tokens& tokens) {
    auto batch = dispatch(config, group, tokens);
    const Tensor output = batch.dispatcher->empty_expert_rows(), grad = batch.dispatcher->empty_expert_rows();
    ASSERT_EQ(output.shape(), batch.grouped.tokens.hidden.shape());
    std::fill(output.values<double>().begin(), output.values<double>().end(), 1.0);
    std::fill(grad.values<double>().begin(), grad.values<double>().end(), 1.0);
    combine_backward(batch, combine(batch, output));
    dispatch_backward(batch, {.hidden = grad, .probs = batch.grouped.tokens.probs});
    EXPECT_EQ(group->buffer().counters().combine.staging_bytes, 0);
  });
}

TEST_P(TokenDispatcherTest, SequenceAndBatchDimensionsComeBack) {
  on_every_rank([&](Communicator&, const Group& group, const Tokens& tokens) {
    const std::int64_t num_tokens = tokens.hidden.size(0);
    auto batch = dispatch(config, group,
                          {.hidden = tokens.hidden.reshape({num_tokens, 1, kHidden}), .probs = tokens.probs});
    const Tensor output = combine(batch, batch.grouped.tokens.hidden);
    EXPECT_EQ(output.shape(), (Shape{num_tokens, 1, kHidden}));
    const auto back = dispatch_backward(
        batch, {.hidden = combine_backward(batch, output), .probs = batch.grouped.tokens.probs});
    EXPECT_EQ(back.hidden.value().shape(), (Shape{num_tokens, 1, kHidden}));
  });
}

TEST_P(TokenDispatcherTest, DoubleProbsOfNarrowRowsTravelAsFloats) {
  on_every_rank([&](Communicator&, const Group& group, const Tokens& tokens) {
    const Tokens narrow{.hidden = Tensor::zeros({tokens.probs.size(0), 8}, DType::kBFloat16),
                        .probs = tokens.probs.clone()};
    for (double& prob : narrow.probs.values<double>()) prob /= 3;
    MoeConfig wide = config;
    wide.hidden_size = 8;
    const auto batch = dispatch(wide, group, narrow);
    ASSERT_EQ(batch.grouped.tokens.probs.dtype(), DType::kFloat64);
    for (const double prob : batch.grouped.tokens.probs.values<double>())
      EXPECT_EQ(prob, static_cast<float>(prob));
  });
}

INSTANTIATE_TEST_SUITE_P(Divisions, TokenDispatcherTest, ::testing::ValuesIn(testing::all_divisions()),
                         [](const auto& division) { return testing::name_of(division.param); });

TEST(DeepEpV2Test, ARowWithTooFewProbsGoesToTheLowestExpertsWithoutWeight) {
  const MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = true});
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  const Tensor probs = tensor_of<double>({1, kExperts}, {0, 0, 0.5, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  const auto batch = dispatch(config, group, {.hidden = random_tensor(1, kHidden, 1), .probs = probs});
  EXPECT_EQ(batch.grouped.tokens_per_expert, (std::vector<std::int32_t>{1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_EQ(values_of<double>(batch.grouped.tokens.probs), (std::vector<double>{0, 0, 0.5}));
}

TEST(DispatcherArgumentTest, WhatDoesNotFitIsNamed) {
  const MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = false});
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  const Tensor hidden = random_tensor(2, kHidden, 1), probs = random_tensor(2, kExperts, 2);
  const Tensor map = Tensor::zeros({2, kExperts}, DType::kInt32);
  const auto reject = [&](const Tokens& tokens, const Tensor& routing_map) {
    return rejected_argument(
        [&] { make_token_dispatcher(config, group)->dispatch_preprocess(tokens, routing_map); });
  };
  EXPECT_EQ(reject({.hidden = random_tensor(2, 6, 1), .probs = probs}, map), "hidden");
  EXPECT_EQ(reject({.hidden = hidden, .probs = random_tensor(3, kExperts, 2)}, map), "probs");
  EXPECT_EQ(reject({.hidden = hidden, .probs = probs}, probs), "routing_map");
  MoeConfig two_ranks = config;
  two_ranks.expert_model_parallel_size = 2;
  EXPECT_EQ(rejected_argument([&] { make_token_dispatcher(two_ranks, group); }),
            "expert_model_parallel_size");
}

TEST(DispatcherArgumentTest, StepsBeforeADispatchAreErrors) {
  const MoeConfig config = config_of({.tp = 1, .ep = 1, .moe_permute_fusion = true});
  const auto group = std::make_shared<ExpertParallelGroup>(Communicator::self());
  const auto dispatcher = make_token_dispatcher(config, group);
  const Tensor rows = random_tensor(2, kHidden, 1);
  EXPECT_THROW(dispatcher->token_combine(rows), InvalidArgument);
  EXPECT_THROW(dispatcher->token_combine_backward(rows), InvalidArgument);
  EXPECT_THROW(dispatcher->token_dispatch_backward({.hidden = rows, .probs = rows}), InvalidArgument);
}

}  // namespace
}  // namespace flexep::moe
