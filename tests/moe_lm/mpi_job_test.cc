// SPDX-License-Identifier: Apache-2.0
//
// The example as ranks of MPI that play two machines of two.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "mpi/mpi.h"

namespace moe_lm {
namespace {

using Json = nlohmann::json;
using flexep::testing::Mpi;
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

/// Trains for some steps, ranks 0 and 1 in one domain, ranks 2 and 3 in another. Every step's loss, or
/// nothing when a rank fails.
std::vector<double> losses_of(const Mpi& mpi, int num_ranks, const Arguments& dispatcher) {
  const std::string file = ::testing::TempDir() + "moe_lm_mpi_test_" + std::to_string(getpid()) + ".json";
  Arguments program = {MOE_LM_PROGRAM, "--json",
                       file,           "--steps",
                       "20",           "--hidden-size",
                       "64",           "--moe-ffn-hidden-size",
                       "64",           "--batch",
                       "256",          "--text-bytes",
                       "1000000",      "--heldout-samples",
                       "512"};
  program.insert(program.end(), dispatcher.begin(), dispatcher.end());
  const Arguments domains = num_ranks > 1 ? Arguments{"FLEXEP_SCALEUP_SIZE=2"} : Arguments{};
  const auto result = flexep::testing::run_command(
      command_of(mpi, {.num_ranks = num_ranks, .program = program, .environment = domains, .options = {}}));
  EXPECT_EQ(result.exit_code, 0) << result.err;
  std::ifstream in(file);
  const Json json = Json::parse(in, nullptr, /*allow_exceptions=*/false);
  std::filesystem::remove(file);
  if (json.is_discarded()) return {};
  EXPECT_EQ(json["config"]["ranks"], num_ranks);
  return json["train_loss"].get<std::vector<double>>();
}

class MpiJobTest : public ::testing::TestWithParam<Dispatcher> {};

TEST_P(MpiJobTest, LearnsAcrossDomainsWhatOneRankLearns) {
  const Mpi mpi = Mpi::all().front();
  const auto expected = losses_of(mpi, 1, GetParam().arguments);
  const auto losses = losses_of(mpi, 4, GetParam().arguments);
  ASSERT_EQ(expected.size(), 20U);
  ASSERT_EQ(losses.size(), expected.size());
  // More ranks add in another order.
  for (std::size_t step = 0; step < losses.size(); ++step)
    EXPECT_NEAR(losses[step], expected[step], 1e-4) << "step " << step;
}

INSTANTIATE_TEST_SUITE_P(Dispatchers, MpiJobTest, ::testing::ValuesIn(kDispatchers),
                         [](const auto& tested) { return tested.param.name; });

}  // namespace
}  // namespace moe_lm
