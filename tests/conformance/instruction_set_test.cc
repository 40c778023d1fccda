// SPDX-License-Identifier: Apache-2.0
//
// Whole operations with each instruction set that this machine has. All are held against the reference, bit
// for bit, and so agree with each other.
#include <gtest/gtest.h>

#include <algorithm>

#include "expected_case.h"
#include "kernels/cpu/cpu_target.h"

namespace flexep::conformance {
namespace {

constexpr int kNumRanks = 3;

class InstructionSetTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Forced while no rank runs.
  InstructionSetTest() { cpu::force_cpu_target(GetParam()); }
  ~InstructionSetTest() override { cpu::force_cpu_target(""); }
};

TEST_P(InstructionSetTest, GivesTheBitsOfTheReference) {
  EXPECT_EQ(cpu::cpu_target(), GetParam());
  std::vector<ExpectedCase> cases;
  for (std::uint64_t seed = 0; seed < 15; ++seed) cases.push_back({draw_case(seed, kNumRanks)});
  in_process(kNumRanks, [&](Communicator& comm) { run_all(comm, cases); });
}

TEST_P(InstructionSetTest, GivesTheBitsOfTheReferenceForRowsThatAreStoredAroundTheCaches) {
  CaseSpec spec = draw_case(3, kNumRanks);
  spec.num_tokens = {150, 170, 0};
  spec.num_topk = 4;
  spec.num_experts = 6;
  spec.num_max_tokens_per_rank = 0;
  spec.do_cpu_sync = true;
  spec.routing = RoutingKind::kUniform;
  spec.values = ValueKind::kSpecial;
  spec.max_recv_tokens = {0, 0, 0};
  spec.dtype = spec.expert_dtype = DType::kBFloat16;
  spec.hidden = spec.expert_hidden = 8192;
  const std::vector<ExpectedCase> cases{ExpectedCase{spec}};
  in_process(kNumRanks, [&](Communicator& comm) { run_all(comm, cases); });
}

INSTANTIATE_TEST_SUITE_P(Available, InstructionSetTest, ::testing::ValuesIn(cpu::available_cpu_targets()),
                         [](const auto& target) {
                           std::string name = target.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace flexep::conformance
