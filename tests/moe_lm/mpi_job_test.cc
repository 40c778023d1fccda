// SPDX-License-Identifier: Apache-2.0
//
// The example as ranks of MPI: two domains of two on one machine, and two machines.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mpi/machines_fixture.h"

namespace moe_lm {
namespace {

using Json = nlohmann::json;
using flexep::testing::Mpi;
using flexep::testing::MpiJob;
using Arguments = std::vector<std::string>;

struct Dispatcher {
  std::string name;
  Arguments arguments;
};

const std::vector<Dispatcher> kDispatchers = {
    {"AllToAll", {"--moe-token-dispatcher-type", "alltoall"}},
    {"AllGather", {"--moe-token-dispatcher-type", "allgather"}},
    {"DeepEp", {"--moe-flex-dispatcher-backend", "deepep"}},
    {"DeepEpV2", {"--moe-flex-dispatcher-backend", "deepepv2"}},
    {"HybridEp", {"--moe-flex-dispatcher-backend", "hybridep"}},
    {"NcclEp", {"--moe-flex-dispatcher-backend", "ncclep", "--moe-expert-rank-capacity-factor", "8"}},
};

struct Shape {
  int num_ranks;
  int num_steps;
};

/// The job in which ranks 0 and 1 are one domain, ranks 2 and 3 another, and rank 0 writes what it learnt.
MpiJob job_of(const Shape& shape, const Arguments& dispatcher, const std::string& file) {
  Arguments program = {MOE_LM_PROGRAM,
                       "--json",
                       file,
                       "--steps",
                       std::to_string(shape.num_steps),
                       "--hidden-size",
                       "64",
                       "--moe-ffn-hidden-size",
                       "64",
                       "--batch",
                       "256",
                       "--text-bytes",
                       "1000000",
                       "--heldout-samples",
                       "512"};
  program.insert(program.end(), dispatcher.begin(), dispatcher.end());
  return {.num_ranks = shape.num_ranks, .program = program, .environment = {}, .options = {}};
}

/// Runs the command that `command_for` makes of a job's file. Every step's loss, or nothing when a rank
/// fails.
template <typename CommandFor>
std::vector<double> losses_of(int num_ranks, CommandFor command_for) {
  const std::string file = ::testing::TempDir() + "moe_lm_mpi_test_" + std::to_string(getpid()) + ".json";
  const auto result = flexep::testing::run_command(command_for(file));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::ifstream in(file);
  const Json json = Json::parse(in, nullptr, /*allow_exceptions=*/false);
  std::filesystem::remove(file);
  if (json.is_discarded()) return {};
  EXPECT_EQ(json["config"]["ranks"], num_ranks);
  return json["train_loss"].get<std::vector<double>>();
}

std::vector<double> losses_on_this_machine(const Shape& shape, const Arguments& dispatcher) {
  return losses_of(shape.num_ranks, [&](const std::string& file) {
    MpiJob job = job_of(shape, dispatcher, file);
    if (shape.num_ranks > 1) job.environment = {"FLEXEP_SCALEUP_SIZE=2"};
    return command_of(Mpi::all().front(), job);
  });
}

// More ranks add in another order.
void expect_same_losses(const std::vector<double>& losses, const std::vector<double>& expected,
                        const Shape& shape) {
  ASSERT_EQ(expected.size(), static_cast<std::size_t>(shape.num_steps));
  ASSERT_EQ(losses.size(), expected.size());
  for (std::size_t step = 0; step < losses.size(); ++step)
    EXPECT_NEAR(losses[step], expected[step], 1e-4) << "step " << step;
}

class MpiJobTest : public ::testing::TestWithParam<Dispatcher> {};

TEST_P(MpiJobTest, LearnsAcrossDomainsWhatOneRankLearns) {
  constexpr Shape kShape{.num_ranks = 4, .num_steps = 20};
  const auto expected = losses_on_this_machine({1, kShape.num_steps}, GetParam().arguments);
  expect_same_losses(losses_on_this_machine(kShape, GetParam().arguments), expected, kShape);
}

INSTANTIATE_TEST_SUITE_P(Dispatchers, MpiJobTest, ::testing::ValuesIn(kDispatchers),
                         [](const auto& tested) { return tested.param.name; });

using MachinesJobTest = flexep::testing::MachinesTest;

TEST_P(MachinesJobTest, EveryDispatcherLearnsAcrossMachinesWhatOneRankLearns) {
  constexpr Shape kShape{.num_ranks = 4, .num_steps = 6};
  const flexep::testing::Machines machines(2);
  for (const auto& [name, arguments] : kDispatchers) {
    SCOPED_TRACE(name);
    const auto losses = losses_of(kShape.num_ranks, [&](const std::string& file) {
      return machines.command_of(GetParam(), job_of(kShape, arguments, file));
    });
    expect_same_losses(losses, losses_on_this_machine({1, kShape.num_steps}, arguments), kShape);
  }
}

INSTANTIATE_TEST_SUITE_P(, MachinesJobTest, ::testing::Values(Mpi::all().front()),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace moe_lm
