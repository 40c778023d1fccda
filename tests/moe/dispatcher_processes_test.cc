// SPDX-License-Identifier: Apache-2.0
//
// Dispatchers over processes that share memory: a program of its own, because it forks.
#include <gtest/gtest.h>
#include <unistd.h>

#include "dispatcher_situations.h"
#include "support/processes.h"

namespace flexep::moe {
namespace {

using testing::Grid;

class DispatcherProcessesTest : public ::testing::TestWithParam<Grid> {};

TEST_P(DispatcherProcessesTest, OutputsAndGradientsAreTheSumsInEverySituation) {
  const int num_ranks = GetParam().tp * GetParam().ep;
  const std::string job = fmt::format("moe/{}x{}/{}", GetParam().tp, GetParam().ep, getpid());
  test::Processes processes(job, num_ranks, [&](int) {
    auto comm = Communicator::from_environment({.timeout = std::chrono::seconds(50)});
    const auto group = std::make_shared<ExpertParallelGroup>(comm);
    std::string mistakes;
    for (int step = 1; step <= 3; ++step) {
      auto num_tokens = testing::ragged_tokens(num_ranks);
      for (auto& count : num_tokens) count *= step * step;
      const auto batch = testing::router_batch(num_tokens, 1);
      for (const auto& situation : testing::all_situations())
        mistakes += testing::check_situation(GetParam(), situation, batch, group);
    }
    std::cerr << mistakes;
    return mistakes.empty() ? 0 : 1;
  });
  for (int rank = 0; rank < num_ranks; ++rank) EXPECT_EQ(processes.exit_code_of(rank), 0) << "rank " << rank;
}

INSTANTIATE_TEST_SUITE_P(shm, DispatcherProcessesTest,
                         ::testing::Values(Grid{1, 2}, Grid{2, 1}, Grid{2, 2}, Grid{1, 4}, Grid{4, 1}),
                         [](const auto& grid) {
                           return fmt::format("Tp{}Ep{}", grid.param.tp, grid.param.ep);
                         });

}  // namespace
}  // namespace flexep::moe
