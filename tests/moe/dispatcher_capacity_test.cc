// SPDX-License-Identifier: Apache-2.0
//
// Ranks that have room for only so many rows: hybridep's budget and ncclep's capacity.
#include <gtest/gtest.h>

#include "dispatcher_cases.h"
#include "flexep/error.h"

namespace flexep::moe {
namespace {

using testing::all_dispatchers;
using testing::Batch;
using testing::check_layer;
using testing::config_of;
using testing::DispatcherKind;
using testing::Grid;
using testing::router_batch;
using testing::Row;
using testing::run_layer;

using Group = std::shared_ptr<ExpertParallelGroup>;

const DispatcherKind& kind_of(FlexDispatcherBackend backend) {
  return *std::ranges::find_if(all_dispatchers(),
                               [&](const auto& kind) { return kind.is_flex() && kind.backend == backend; });
}

// Every token goes to expert 0 alone, with probability 1, and other experts get none of those that a top k
// adds for the map's sake.
Batch one_expert_batch(const std::vector<std::int64_t>& num_tokens) {
  Batch batch = router_batch(num_tokens, 1);
  for (std::size_t token = 0; token < batch.probs.size(); ++token) {
    batch.probs[token] = batch.routing_map[token] = Row(8);
    batch.probs[token][0] = batch.routing_map[token][0] = 1;
  }
  return batch;
}

// The batch as it is when only its first `num_kept` tokens go anywhere.
Batch first_tokens(Batch batch, std::size_t num_kept) {
  for (std::size_t token = num_kept; token < batch.probs.size(); ++token)
    batch.probs[token] = batch.routing_map[token] = Row(8);
  return batch;
}

MoeConfig budgeted(double factor) {
  MoeConfig config = config_of({.tp = 1, .ep = 2}, kind_of(FlexDispatcherBackend::kHybridEp));
  config.moe_expert_rank_capacity_factor = factor;
  config.use_transformer_engine_op_fuser = true;  // rounds budgets up to 256 rows
  return config;
}

template <typename Body>
void on_two_ranks(Body&& body) {
  in_process(2, [&](Communicator& comm) { body(std::make_shared<ExpertParallelGroup>(comm)); });
}

TEST(HybridEpBudgetTest, WhatDoesNotFitIsDroppedAndCounted) {
  const auto& kind = kind_of(FlexDispatcherBackend::kHybridEp);
  // Room for 256 rows (200 tokens * top 2 * 0.5, rounded up); 350 come.
  const Batch batch = one_expert_batch({200, 150});
  const auto grad_output = testing::random_matrix(350, 4, 99);
  const auto expected = expected_layer(budgeted(0.5), kind, first_tokens(batch, 256), grad_output);
  on_two_ranks([&](const Group& group) {
    const int rank = group->comm().rank();
    const auto got = run_layer(budgeted(0.5), batch, grad_output, group);
    EXPECT_TRUE(testing::near(batch.share(expected.output, rank), got.output, 0));
    EXPECT_TRUE(testing::near(batch.share(expected.grad_hidden, rank), got.grad_hidden, 0));
    EXPECT_TRUE(testing::near(batch.share(expected.grad_probs, rank), got.grad_probs, 0));
    EXPECT_EQ(group->flex_state().num_dropped_pairs, rank == 0 ? 94 : 0);
    EXPECT_EQ(make_token_dispatcher(budgeted(0.5), group)->check_over_budget(), rank == 0);
  });
}

TEST(HybridEpBudgetTest, TheFlagStaysUpUntilItIsReset) {
  const auto& kind = kind_of(FlexDispatcherBackend::kHybridEp);
  const Batch large = one_expert_batch({300, 0}), small = router_batch({5, 3}, 1);
  on_two_ranks([&](const Group& group) {
    const auto is_over = [&] { return make_token_dispatcher(budgeted(0.5), group)->check_over_budget(); };
    EXPECT_EQ(is_over(), false);
    // 300 rows fit 300 * 2 * 0.5 rounded up to 512; not 300 * 2 * 0.4 rounded up to 256.
    EXPECT_EQ("", check_layer(budgeted(0.5), kind, large, group));
    EXPECT_EQ(is_over(), false);
    run_layer(budgeted(0.4), large, testing::random_matrix(300, 4, 1), group);
    EXPECT_EQ("", check_layer(budgeted(0.5), kind, small, group));
    EXPECT_EQ(is_over(), group->comm().rank() == 0);
    group->reset_over_budget();
    EXPECT_EQ("", check_layer(budgeted(0.5), kind, small, group));
    EXPECT_EQ(is_over(), false);
  });
}

TEST(HybridEpBudgetTest, PaddedTokensCountInTheBudget) {
  const auto& kind = kind_of(FlexDispatcherBackend::kHybridEp);
  const Batch batch = one_expert_batch({130, 130});
  on_two_ranks([&](const Group& group) {
    // 130 * 2 * 0.98 rounds up to 256 rows, 192 * 2 * 0.98 to 512; 260 come.
    MoeConfig config = budgeted(0.98);
    config.moe_hybridep_pad_variable_tokens = true;
    EXPECT_EQ("", check_layer(config, kind, batch, group));
    config.moe_hybridep_pad_variable_tokens = false;
    run_layer(config, batch, testing::random_matrix(260, 4, 1), group);
    EXPECT_EQ(group->flex_state().num_dropped_pairs, group->comm().rank() == 0 ? 4 : 0);
  });
}

TEST(HybridEpBudgetTest, WithoutABudgetThereIsNoFlag) {
  on_two_ranks([&](const Group& group) {
    for (const DispatcherKind& kind : all_dispatchers())
      EXPECT_EQ(make_token_dispatcher(config_of({.tp = 1, .ep = 2}, kind), group)->check_over_budget(),
                std::nullopt);
  });
}

// Room for 64 tokens: factor 0.5 of 64 * top 2.
MoeConfig with_capacity(bool drop_on_overflow) {
  MoeConfig config = config_of({.tp = 1, .ep = 2}, kind_of(FlexDispatcherBackend::kNcclEp));
  config.moe_expert_rank_capacity_factor = 0.5;
  config.moe_ncclep_drop_on_overflow = drop_on_overflow;
  config.moe_respect_routing_map = true;
  return config;
}

TEST(NcclEpCapacityTest, OverflowIsAnErrorOfAllRanksThatNamesRankTokensAndCapacity) {
  const auto& kind = kind_of(FlexDispatcherBackend::kNcclEp);
  const Batch batch = one_expert_batch({50, 20});
  on_two_ranks([&](const Group& group) {
    try {
      run_layer(with_capacity(false), batch, testing::random_matrix(70, 4, 1), group);
      ADD_FAILURE() << "nothing thrown";
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.argument(), "moe_expert_rank_capacity_factor");
      EXPECT_NE(
          std::string(error.what()).find("rank 0 would receive 70 tokens, more than its capacity of 64"),
          std::string::npos)
          << error.what();
    }
    EXPECT_EQ("", check_layer(with_capacity(false), kind, one_expert_batch({40, 20}), group));
  });
}

TEST(NcclEpCapacityTest, OverflowIsDroppedAndCountedOnRequest) {
  const auto& kind = kind_of(FlexDispatcherBackend::kNcclEp);
  const Batch batch = one_expert_batch({50, 20});
  const auto grad_output = testing::random_matrix(70, 4, 99);
  const auto expected = expected_layer(with_capacity(true), kind, first_tokens(batch, 64), grad_output);
  on_two_ranks([&](const Group& group) {
    const int rank = group->comm().rank();
    const auto got = run_layer(with_capacity(true), batch, grad_output, group);
    EXPECT_TRUE(testing::near(batch.share(expected.output, rank), got.output, 0));
    EXPECT_TRUE(testing::near(batch.share(expected.grad_hidden, rank), got.grad_hidden, 0));
    EXPECT_TRUE(testing::near(batch.share(expected.grad_probs, rank), got.grad_probs, 0));
    EXPECT_EQ(group->flex_state().num_dropped_pairs, rank == 0 ? 6 : 0);
  });
}

TEST(NcclEpCapacityTest, ALargerMicrobatchMakesRoom) {
  const auto& kind = kind_of(FlexDispatcherBackend::kNcclEp);
  on_two_ranks([&](const Group& group) {
    EXPECT_EQ("", check_layer(with_capacity(false), kind, one_expert_batch({3, 0}), group));
    EXPECT_EQ("", check_layer(with_capacity(false), kind, one_expert_batch({100, 20}), group));
    // The room stays: 128 tokens' worth.
    EXPECT_EQ("", check_layer(with_capacity(false), kind, one_expert_batch({60, 60}), group));
    EXPECT_EQ(group->flex_state().num_max_tokens, 128);
  });
}

}  // namespace
}  // namespace flexep::moe
