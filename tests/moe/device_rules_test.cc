// SPDX-License-Identifier: Apache-2.0
#include "moe/device_rules.h"

#include <gtest/gtest.h>

#include "expert_groups.h"
#include "moe/device_router.h"

namespace flexep::moe {
namespace {

using testing::rejected_argument;

// Which option a layer on this device names.
std::string refused(const MoeConfig& config, Device device = Device::cuda(0)) {
  return rejected_argument([&] { check_runs_on(device, config); });
}

TEST(DeviceRulesTest, WhatDoesNotRunOnAGpuIsNamed) {
  const MoeConfig config = testing::config_of({1, 1, true});
  MoeConfig with_jitter = config, compact = config, deepep = config, alltoall = config, overlap = config;
  with_jitter.moe_input_jitter_eps = 0.1;
  compact.moe_permute_fusion = false;
  deepep.moe_flex_dispatcher_backend = FlexDispatcherBackend::kDeepEp;
  alltoall.moe_token_dispatcher_type = TokenDispatcherType::kAllToAll;
  overlap.moe_shared_expert_intermediate_size = 4;
  overlap.moe_shared_expert_overlap = true;
  EXPECT_EQ(refused(config), "");
  EXPECT_EQ(refused(with_jitter), "moe_input_jitter_eps");
  EXPECT_EQ(refused(compact), "moe_permute_fusion");
  EXPECT_EQ(refused(deepep), "moe_flex_dispatcher_backend");
  EXPECT_EQ(refused(alltoall), "moe_token_dispatcher_type");
  EXPECT_EQ(refused(overlap), "moe_shared_expert_overlap");
  for (const MoeConfig& each : {with_jitter, compact, deepep, alltoall, overlap})
    EXPECT_EQ(refused(each, Device::host()), "");
}

TEST(DeviceRulesTest, ScoresAloneAreDecidedOnADevice) {
  const MoeConfig config = testing::config_of({1, 1, true});
  MoeConfig many = config, grouped = config, sinkhorn = config, capacity = config, mapped = config,
            forced = config, hybridep = config, sliced = testing::config_of({2, 2, true});
  many.num_moe_experts = 1025;
  grouped.moe_router_num_groups = 33;
  sinkhorn.moe_router_load_balancing_type = RouterLoadBalancing::kSinkhorn;
  capacity.moe_expert_capacity_factor = 1.0;
  mapped.moe_respect_routing_map = true;
  forced.moe_router_force_load_balancing = true;
  hybridep.moe_flex_dispatcher_backend = FlexDispatcherBackend::kHybridEp;
  EXPECT_TRUE(routes_on_device(config));
  for (const MoeConfig& each : {many, grouped, sinkhorn, capacity, mapped, forced, hybridep, sliced})
    EXPECT_FALSE(routes_on_device(each));
}

}  // namespace
}  // namespace flexep::moe
