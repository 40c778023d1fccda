// SPDX-License-Identifier: Apache-2.0
//
// Every dispatcher and backend where ranks lie in several domains, which threads play: groups of tensor and
// of expert parallel ranks inside a domain, and across domains.
#include <gtest/gtest.h>

#include <chrono>
#include <tuple>

#include "dispatcher_cases.h"
#include "dispatcher_situations.h"
#include "flexep/error.h"

namespace flexep::moe {
namespace {

using namespace std::chrono_literals;
using testing::Batch;
using testing::Grid;
using testing::ragged_tokens;
using testing::router_batch;
using testing::Situation;

/// A grid, and how many of its ranks make a domain.
struct Machines {
  Grid grid;
  int num_scaleup_ranks;

  int num_ranks() const { return grid.tp * grid.ep; }
  CommunicatorOptions options() const { return {.timeout = 60s, .num_scaleup_ranks = num_scaleup_ranks}; }
};

class DispatcherDomainsTest : public ::testing::TestWithParam<std::tuple<Machines, Situation>> {};

TEST_P(DispatcherDomainsTest, OutputsAndGradientsAreTheSums) {
  const auto& [machines, situation] = GetParam();
  const Batch batch = router_batch(ragged_tokens(machines.num_ranks()), 1);
  in_process(
      machines.num_ranks(),
      [&, &machines = machines, &situation = situation](Communicator& comm) {
        EXPECT_EQ("", testing::check_situation(machines.grid, situation, batch,
                                               std::make_shared<ExpertParallelGroup>(comm)));
      },
      machines.options());
}

const auto kMachines = ::testing::Values(Machines{{1, 4}, 2},   // experts on all machines
                                         Machines{{2, 2}, 2},   // a machine has an expert's slices
                                         Machines{{4, 2}, 2},   // an expert's slices are on two machines
                                         Machines{{2, 4}, 4},   // two machines of two experts' slices
                                         Machines{{2, 2}, 1});  // every rank on its own

std::string name_of_case(const ::testing::TestParamInfo<std::tuple<Machines, Situation>>& params) {
  const auto& [machines, situation] = params.param;
  return fmt::format("Tp{}Ep{}InDomainsOf{}{}", machines.grid.tp, machines.grid.ep,
                     machines.num_scaleup_ranks, situation.name);
}

INSTANTIATE_TEST_SUITE_P(, DispatcherDomainsTest,
                         ::testing::Combine(kMachines, ::testing::ValuesIn(testing::all_situations())),
                         name_of_case);

TEST(GroupOverDomainsTest, SlicesThatFillNoWholeMachinesAreRefusedOnAllRanks) {
  const Machines machines{{3, 2}, 2};
  in_process(
      machines.num_ranks(),
      [&](Communicator& comm) {
        ExpertParallelGroup group(comm);
        EXPECT_THROW(group.collectives(machines.grid.tp), InvalidArgument);
        comm.barrier();
      },
      machines.options());
}

}  // namespace
}  // namespace flexep::moe
