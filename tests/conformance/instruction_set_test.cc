// SPDX-License-Identifier: Apache-2.0
//
// Whole operations with each instruction set that this machine has. All are held against the reference, bit
// for bit, and so agree with each other.
#include <gtest/gtest.h>

#include <algorithm>

#include "conformance/run_case.h"
#include "kernels/cpu/cpu_target.h"

namespace flexep::conformance {
namespace {

constexpr int kNumRanks = 3;

class InstructionSetTest : public ::testing::TestWithParam<std::string> {
 protected:
  // Forced while no rank runs.
  InstructionSetTest() { cpu::force_cpu_target(GetParam()); }
  ~InstructionSetTest() override { cpu::force_cpu_target(""); }

  static void run(Communicator& comm, CaseRunner& runner, const CaseSpec& spec) {
    const auto finding = runner.run(spec, ExpectedResults(spec));
    EXPECT_FALSE(finding) << "rank " << comm.rank() << ": " << *finding << "\n" << spec.to_string();
  }
};

TEST_P(InstructionSetTest, GivesTheBitsOfTheReference) {
  EXPECT_EQ(cpu::cpu_target(), GetParam());
  in_process(kNumRanks, [&](Communicator& comm) {
    CaseRunner runner(comm);
    for (std::uint64_t seed = 0; seed < 15; ++seed) run(comm, runner, draw_case(seed, kNumRanks));
  });
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
  in_process(kNumRanks, [&](Communicator& comm) {
    CaseRunner runner(comm);
    run(comm, runner, spec);
  });
}

INSTANTIATE_TEST_SUITE_P(Available, InstructionSetTest, ::testing::ValuesIn(cpu::available_cpu_targets()),
                         [](const auto& target) {
                           std::string name = target.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

}  // namespace
}  // namespace flexep::conformance
