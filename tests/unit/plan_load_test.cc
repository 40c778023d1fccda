// SPDX-License-Identifier: Apache-2.0
//
// What `flexep plan` counts: expectations against routings that are drawn, and against figures of the
// documentation.
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "plan/expert_sampler.h"
#include "plan/load.h"
#include "plan/plan.h"

namespace flexep::tool {
namespace {

PlanInputs two_domains() {
  return {.num_scaleout_ranks = 2,
          .num_scaleup_ranks = 4,
          .num_experts = 64,
          .num_topk = 6,
          .num_tokens = 4096,
          .hidden = 1024,
          .machine = {}};
}

constexpr double RankLoad::*kRows[] = {
    &RankLoad::local,     &RankLoad::scaleup,      &RankLoad::forwarded,
    &RankLoad::scaleout,  &RankLoad::scaleup_back, &RankLoad::scaleout_back,
    &RankLoad::rows_read, &RankLoad::rows_written, &RankLoad::pairs};

TEST(PlanLoadTest, ADrawnUniformRoutingIsNearItsExpectation) {
  const PlanInputs inputs = two_domains();
  const SampledRouting routing = sample_routing(inputs, 1 << 20);
  ASSERT_EQ(routing.num_sampled_tokens, 4096);
  for (const Variant& variant : all_variants(true)) {
    const Load expected = uniform_load(inputs, variant);
    const Load drawn = sampled_load(inputs, routing, variant);
    for (const auto entry : kRows) {
      EXPECT_NEAR(drawn.mean.*entry, expected.mean.*entry, 0.02 * expected.mean.*entry + 1)
          << variant.operation_name() << " " << variant.layout_name() << " " << variant.mode_name();
      EXPECT_GE(drawn.busiest.*entry, drawn.mean.*entry - 1e-6);
    }
  }
}

TEST(PlanLoadTest, WhatIsSentIsReceived) {
  PlanInputs inputs = two_domains();
  inputs.zipf_exponent = 1.5;
  const SampledRouting routing = sample_routing(inputs, 1 << 14);
  for (const Variant& variant : all_variants(true)) {
    const RankLoad mean = sampled_load(inputs, routing, variant).mean;
    EXPECT_NEAR(mean.scaleup, mean.scaleup_back, 1e-6 * mean.scaleup);
    EXPECT_NEAR(mean.scaleout, mean.scaleout_back, 1e-6 * mean.scaleout);
  }
}

TEST(PlanLoadTest, FewerDrawnTokensAreScaledUp) {
  PlanInputs inputs = two_domains();
  inputs.num_tokens = 100000;
  const SampledRouting routing = sample_routing(inputs, 1 << 14);
  EXPECT_EQ(routing.num_sampled_tokens, (1 << 14) / 8);
  const Variant dispatch;
  EXPECT_NEAR(sampled_load(inputs, routing, dispatch).mean.local, uniform_load(inputs, dispatch).mean.local,
              0.05 * 100000);
}

TEST(PlanLoadTest, HybridModeSendsATokenOnceToADomain) {
  const PlanInputs inputs{.num_scaleout_ranks = 2, .num_scaleup_ranks = 8, .machine = {}};
  const Plan plan = make_plan(inputs);
  EXPECT_NEAR(plan.ranks_per_token, 6.52328, 1e-5);
  EXPECT_NEAR(plan.domains_per_token, 1.99302, 1e-5);
  const auto& hybrid = find_variant(plan, Operation::kDispatch, false, true).load.mean;
  const auto& direct = find_variant(plan, Operation::kDispatch, false, false).load.mean;
  EXPECT_NEAR(hybrid.scaleout, 4096 * 1.99302 / 2, 0.1);
  EXPECT_NEAR(direct.scaleout, 4096 * 6.52328 / 2, 0.1);
  // What came is passed on to the seven others of the domain.
  EXPECT_NEAR(hybrid.forwarded, direct.scaleout * 7 / 8, 0.1);
  EXPECT_EQ(plan.sms.num_sms, 12);
}

TEST(PlanLoadTest, OneReductionSendsEveryRowOfTheLayout) {
  const PlanInputs inputs = two_domains();
  Variant combine{.operation = Operation::kCombine, .allow_multiple_reduction = false, .is_hybrid = true};
  const auto& rows = [&] { return uniform_load(inputs, combine).mean.scaleout; };
  const double per_rank = rows();
  combine.do_expand = true;
  EXPECT_DOUBLE_EQ(rows(), 4096 * 6 / 2.0);
  EXPECT_LT(per_rank, rows());
  combine.allow_multiple_reduction = true;
  EXPECT_LT(rows(), per_rank);
}

TEST(PlanLoadTest, AHotExpertMakesItsRankBusier) {
  PlanInputs inputs = two_domains();
  inputs.zipf_exponent = 2;
  const Plan plan = make_plan(inputs);
  const auto& dispatch = find_variant(plan, Operation::kDispatch, true, true);
  EXPECT_GT(dispatch.load.busiest.link_rows(), 2 * dispatch.load.mean.scaleup);
  ASSERT_TRUE(plan.busiest_memory);
  EXPECT_GT(plan.busiest_memory->expanded_arena, static_cast<double>(plan.expanded_memory.total_bytes()));
}

TEST(PlanLoadTest, OneRankSendsNothing) {
  PlanInputs inputs = two_domains();
  inputs.num_scaleout_ranks = inputs.num_scaleup_ranks = 1;
  for (const auto& planned : make_plan(inputs).variants) {
    EXPECT_EQ(planned.load.mean.scaleup + planned.load.mean.scaleout, 0);
    EXPECT_EQ(planned.time.bottleneck(), "memory");
    EXPECT_EQ(planned.time.exchange_us, 0);
  }
}

TEST(PlanLoadTest, TwiceTheRanksAreTwiceTheDomains) {
  PlanInputs inputs = two_domains();
  inputs.num_experts = 8;
  inputs.num_topk = 2;
  const PlanInputs twice = with_twice_the_ranks(inputs);
  EXPECT_EQ(twice.num_scaleout_ranks, 4);
  EXPECT_EQ(twice.num_experts, 16);
}

TEST(ExpertSamplerTest, DrawsDistinctExpertsInProportionToTheirWeights) {
  ExpertSampler sampler(5, 1, 7);
  std::vector<int> num_first(5);
  std::vector<std::int64_t> ids(3);
  constexpr int kDraws = 60000;
  for (int i = 0; i < kDraws; ++i) {
    sampler.draw(ids);
    EXPECT_EQ(std::set(ids.begin(), ids.end()).size(), 3u);
    ++num_first[static_cast<std::size_t>(ids[0])];
  }
  const double total = 1 + 1.0 / 2 + 1.0 / 3 + 1.0 / 4 + 1.0 / 5;
  for (int e = 0; e < 5; ++e)
    EXPECT_NEAR(num_first[static_cast<std::size_t>(e)] / double{kDraws}, 1 / (e + 1.0) / total, 0.01);
}

TEST(ExpertSamplerTest, AllExpertsOfATokenCanBeDrawn) {
  ExpertSampler sampler(7, 10, 1);
  std::vector<std::int64_t> ids(7);
  sampler.draw(ids);
  EXPECT_EQ(std::set(ids.begin(), ids.end()), (std::set<std::int64_t>{0, 1, 2, 3, 4, 5, 6}));
}

}  // namespace
}  // namespace flexep::tool
