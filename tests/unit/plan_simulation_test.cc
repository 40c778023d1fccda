// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include "plan/growth.h"
#include "plan/link_servers.h"
#include "plan/prediction.h"
#include "plan/simulation.h"

namespace flexep::tool {
namespace {

PlanInputs domains(int num_domains, int num_ranks) {
  return {.num_scaleout_ranks = num_domains,
          .num_scaleup_ranks = num_ranks,
          .num_experts = 64,
          .num_topk = 8,
          .num_tokens = 2048,
          .machine = {}};
}

SimulatedOperation simulated(const PlanInputs& inputs, const Variant& variant) {
  const SampledRouting routing = sample_routing(inputs, 1 << 16);
  return simulate(inputs, routing, variant, sampled_load(inputs, routing, variant).busiest);
}

TEST(LinkServersTest, SendersToOneRankQueueAtItsLink) {
  LinkServers links(3, {.gbs = 1, .latency_us = 5});
  links.receive(0, 1e6, links.send(1, 1e6, 1, {}));
  links.receive(0, 1e6, links.send(2, 1e6, 1, {}));
  EXPECT_DOUBLE_EQ(links.through_us(0), 2 * 1000 + 5);
  EXPECT_DOUBLE_EQ(links.through_us(1), 1000);
  EXPECT_DOUBLE_EQ(links.busiest_us(), 2000);
}

TEST(LinkServersTest, ASenderDoesOneThingAfterTheOther) {
  LinkServers links(3, {.gbs = 1, .message_us = 2});
  links.receive(1, 1e6, links.send(0, 1e6, 3, {}));
  links.receive(2, 1e6, links.send(0, 1e6, 1, {}));
  EXPECT_DOUBLE_EQ(links.through_us(0), 2000 + 4 * 2);
}

TEST(LinkServersTest, WhatComesSlowlyIsPassedOnAsItComes) {
  LinkServers links(2, {.gbs = 1});
  const auto sent = links.send(0, 1e6, 0, {.begin = 100, .end = 5000}, 1e5);
  EXPECT_DOUBLE_EQ(sent.end, 5000 + 100);
}

TEST(SimulationTest, AUniformRoutingTakesLittleMoreThanItsFloor) {
  for (const bool is_hybrid : {true, false}) {
    for (const Operation operation : {Operation::kDispatch, Operation::kCombine}) {
      const PlanInputs inputs = domains(4, 4);
      const Variant variant{.operation = operation, .is_hybrid = is_hybrid};
      const double planned_us = predict(inputs, variant, uniform_load(inputs, variant).busiest).total_us();
      const SimulatedOperation operation_time = simulated(inputs, variant);
      EXPECT_GT(operation_time.total_us, 0.95 * planned_us)
          << variant.operation_name() << variant.mode_name();
      EXPECT_LT(operation_time.total_us, 1.35 * planned_us)
          << variant.operation_name() << variant.mode_name();
    }
  }
}

TEST(SimulationTest, AHotExpertHoldsEverybodyUp) {
  PlanInputs inputs = domains(1, 8);
  const double uniform_us = simulated(inputs, {}).total_us;
  inputs.zipf_exponent = 2;
  // All tokens go to the rank that owns the hot experts, whose link receives from seven others.
  EXPECT_GT(simulated(inputs, {}).total_us, 1.1 * uniform_us);
}

TEST(SimulationTest, HybridModeWinsByTheBytesItSavesOnASlowNetwork) {
  PlanInputs inputs = domains(2, 4);
  inputs.machine.net_gbs = 0.125;
  const Variant hybrid{.is_hybrid = true}, direct;
  const double saved =
      uniform_load(inputs, direct).mean.scaleout / uniform_load(inputs, hybrid).mean.scaleout;
  const double faster = simulated(inputs, direct).total_us / simulated(inputs, hybrid).total_us;
  EXPECT_NEAR(faster, saved, 0.1 * saved);
}

TEST(SimulationTest, ForwardingOverlapsWithWhatStillComes) {
  PlanInputs inputs = domains(2, 4);
  inputs.machine.net_gbs = 1.25;
  inputs.machine.link_gbs = 5;
  const SimulatedOperation time = simulated(inputs, {.is_hybrid = true});
  EXPECT_LT(time.total_us, 1.25 * std::max(time.link_us, time.net_us));
}

TEST(SimulationTest, GivesTheSameFiguresEveryTime) {
  PlanInputs inputs = domains(2, 4);
  inputs.zipf_exponent = 1.2;
  EXPECT_EQ(simulated(inputs, {.is_hybrid = true}).total_us, simulated(inputs, {.is_hybrid = true}).total_us);
}

TEST(GrowthTest, DoublesDomainsAndAddsExpertsThatRanksDivide) {
  const auto steps = growing(domains(3, 8), 70);
  ASSERT_EQ(steps.size(), 4u);
  EXPECT_EQ(steps.front().num_ranks(), 8);
  EXPECT_EQ(steps.back().num_ranks(), 64);
  EXPECT_EQ(steps.back().num_experts, 64);
  EXPECT_EQ(experts_for(2048, 256), 2048);
  EXPECT_EQ(experts_for(24, 256), 264);
}

TEST(GrowthTest, EverythingOfARankIsBoundedAsRanksGrow) {
  PlanInputs inputs = domains(1, 8);
  inputs.num_tokens = 256;
  const GrowthStep small = simulate_all(growing(inputs, 8).back());
  const GrowthStep large = simulate_all(growing(inputs, 128).back());
  // Tokens of a rank stay the same, so what comes to it is at most K rows for each of them.
  EXPECT_LT(large.memory.compact_arena, 2 * small.memory.expanded_arena);
  EXPECT_LT(large.memory.plan, 2 * small.memory.plan);
}

}  // namespace
}  // namespace flexep::tool
