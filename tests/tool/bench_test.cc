// SPDX-License-Identifier: Apache-2.0
//
// `flexep bench` as a user sees it, on shapes too small to mean anything.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "support/command.h"

namespace flexep {
namespace {

using flexep::testing::CommandResult;
using flexep::testing::run_command;
using nlohmann::json;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Arguments = std::vector<std::string>;

CommandResult bench(const Arguments& options) {
  Arguments arguments = {FLEXEP_COMMAND, "bench"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  return run_command(arguments);
}

CommandResult small_bench(Arguments options) {
  options.insert(options.begin(), {"--tokens", "33", "--hidden", "64", "--warmup", "1", "--iters", "3"});
  return bench(options);
}

class BenchTest : public ::testing::Test {
 protected:
  ~BenchTest() override { std::filesystem::remove(file_); }

  /// What the benchmark wrote, after it ended well.
  json results_of(Arguments options) {
    options.insert(options.end(), {"--json", file_});
    const CommandResult result = small_bench(options);
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    std::ifstream file(file_);
    return json::parse(file);
  }

  const std::string file_ = ::testing::TempDir() + "flexep_bench_" + std::to_string(getpid()) + ".json";
};

TEST_F(BenchTest, WritesWhatItMeasured) {
  const json run = results_of(
      {"--ranks", "3", "--experts", "12", "--topk", "4", "--dtype", "fp32", "--routing", "zipf:1"});
  EXPECT_EQ(run["schema_version"], 1);
  EXPECT_THAT(run["command"].get<std::string>(), ::testing::StartsWith("flexep bench --tokens 33"));
  for (const char* key : {"machine", "commit", "dirty", "date"}) EXPECT_TRUE(run.contains(key)) << key;
  ASSERT_EQ(run["results"].size(), 4u);
  const json& result = run["results"][0];
  const json expected = {{"op", "dispatch"},    {"device", "cpu"},     {"transport", "shm"},
                         {"num_ranks", 3},      {"num_tokens", 33},    {"hidden", 64},
                         {"num_topk", 4},       {"num_experts", 12},   {"dtype", "fp32"},
                         {"layout", "compact"}, {"routing", "zipf:1"}, {"input", "arena"},
                         {"iters", 3},          {"seed", 1},           {"baseline_us", nullptr},
                         {"staging_bytes", 0},  {"verified", true}};
  for (const auto& [key, value] : expected.items()) EXPECT_EQ(result[key], value) << key;
  EXPECT_LE(result["min_us"], result["median_us"]);
  EXPECT_LE(result["median_us"], result["p99_us"]);
  EXPECT_DOUBLE_EQ(result["fraction_of_floor"],
                   result["floor_us"].get<double>() / result["median_us"].get<double>());
  EXPECT_EQ(result["bytes_read"], 3 * 33 * 64 * 4);
  EXPECT_GT(result["bytes_written"], result["link_bytes"]);
}

TEST_F(BenchTest, ARoundTripIsComparedWithABarrierAndTheCopies) {
  const json run = results_of({"--ops", "dispatch,round_trip"});
  EXPECT_TRUE(run["results"][0]["round_trip_over_barrier_and_copies"].is_null());
  const json& result = run["results"][1];
  EXPECT_DOUBLE_EQ(result["round_trip_over_barrier_and_copies"],
                   result["median_us"].get<double>() / result["barrier_and_copies_us"].get<double>());
  EXPECT_GT(result["floor_us"], 0) << "the copies alone";
}

TEST_F(BenchTest, EveryLayoutInputAndTransportIsVerified) {
  for (const char* transport : {"shm", "in_process"}) {
    for (const char* layout : {"compact", "expanded"}) {
      for (const char* input : {"arena", "ordinary", "registered"}) {
        const json run = results_of({"--transport", transport, "--layout", layout, "--input", input});
        for (const json& result : run["results"]) EXPECT_EQ(result["verified"], true) << result.dump();
      }
    }
  }
}

TEST_F(BenchTest, RanksInSeveralDomainsAreVerifiedInBothModes) {
  std::vector<std::string> transports = {"in_process"};
  if (FLEXEP_BENCH_HAS_MPI != 0) transports.emplace_back("mpi");
  for (const auto& transport : transports) {
    std::map<std::string, double> scaleout_bytes;
    for (const char* mode : {"hybrid", "direct"}) {
      const json run =
          results_of({"--transport", transport, "--ranks", "4", "--domains", "2", "--mode", mode});
      for (const json& result : run["results"]) {
        EXPECT_EQ(result["verified"], true) << result.dump();
        EXPECT_EQ(result["num_domains"], 2);
        EXPECT_EQ(result["mode"], mode);
        EXPECT_TRUE(result["floor_us"].is_null()) << "no rank can copy to memory of another domain";
      }
      scaleout_bytes[mode] = run["results"][0]["scaleout_bytes"];
    }
    EXPECT_GT(scaleout_bytes["hybrid"], 0);
    EXPECT_GT(scaleout_bytes["direct"], scaleout_bytes["hybrid"]);
  }
}

TEST_F(BenchTest, OrdinaryInputOfCombineIsStaged) {
  const json run = results_of({"--ops", "combine", "--input", "ordinary"});
  EXPECT_GT(run["results"][0]["staging_bytes"], 0);
}

TEST_F(BenchTest, WithoutHostSyncWhatArrivesIsVerified) {
  for (const char* layout : {"compact", "expanded"}) {
    const json run = results_of({"--sync", "none", "--layout", layout});
    for (const json& result : run["results"]) {
      EXPECT_EQ(result["verified"], true) << result.dump();
      EXPECT_EQ(result["sync"], "none");
    }
  }
}

TEST_F(BenchTest, OnlyActiveRanksHaveTokens) {
  const json run = results_of({"--ranks", "4", "--active-ranks", "1", "--transport", "in_process"});
  for (const json& result : run["results"]) EXPECT_EQ(result["verified"], true) << result.dump();
  EXPECT_EQ(run["results"][0]["num_active_ranks"], 1);
  EXPECT_EQ(run["results"][0]["bytes_read"], 33 * 64 * 2);
}

TEST_F(BenchTest, Fp8RowsAreVerifiedWithTheirScalingFactorsInBothLayouts) {
  for (const char* layout : {"compact", "expanded"}) {
    const json run =
        results_of({"--dtype", "fp8_e4m3", "--layout", layout, "--ops", "dispatch,cached_dispatch"});
    for (const json& result : run["results"]) {
      EXPECT_EQ(result["verified"], true) << result.dump();
      EXPECT_GT(result["floor_us"], 0);
    }
  }
}

TEST_F(BenchTest, TheExchangeAndTheChecksAreTimedAlone) {
  const json run = results_of({"--ops", "exchange,checks"});
  EXPECT_EQ(run["results"][0]["bytes_written"], 0);
  EXPECT_TRUE(run["results"][0]["floor_us"].is_null());
  EXPECT_GT(run["results"][0]["cpu_us"], 0);
  EXPECT_GT(run["results"][1]["floor_us"], 0) << "the same steps without the checks";
  for (const json& result : run["results"]) EXPECT_EQ(result["verified"], true) << result.dump();
}

TEST_F(BenchTest, RunsAsTheRanksOfAJobThatIsAlreadyThere) {
  const auto result =
      run_command({FLEXEP_COMMAND, "launch", "-n", "2", "--", FLEXEP_COMMAND, "bench", "--tokens", "5",
                   "--hidden", "32", "--iters", "2", "--ops", "dispatch", "--json", file_});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_TRUE(std::filesystem::exists(file_));
}

TEST_F(BenchTest, TheBaselineRunsBesideTheOperationsOrIsNotAvailable) {
  if (FLEXEP_BENCH_HAS_MPI == 0) {
    const auto result = small_bench({"--ops", "baseline_alltoallv"});
    EXPECT_EQ(result.exit_code, 3);
    EXPECT_THAT(result.err, HasSubstr("without MPI"));
    return;
  }
  const json run = results_of({"--ops", "round_trip,baseline_alltoallv"});
  EXPECT_GT(run["results"][0]["baseline_us"], 0);
  EXPECT_EQ(run["results"][1]["op"], "baseline_alltoallv");
  EXPECT_TRUE(run["results"][1]["floor_us"].is_null());
  EXPECT_EQ(run["results"][1]["verified"], true);
  const json domains = results_of(
      {"--ops", "round_trip,baseline_alltoallv", "--transport", "mpi", "--ranks", "4", "--domains", "2"});
  EXPECT_GT(domains["results"][0]["baseline_us"], 0);
  EXPECT_EQ(domains["results"][1]["verified"], true);
}

TEST_F(BenchTest, ALayerIsMeasuredWithEveryDispatcherAndVerified) {
  if (FLEXEP_BENCH_HAS_MOE == 0) {
    EXPECT_EQ(small_bench({"--ops", "layer"}).exit_code, 3);
    return;
  }
  for (const char* dtype : {"bf16", "fp32", "fp64"}) {
    const json run = results_of({"--ops", "layer", "--ffn", "24", "--shared-ffn", "16", "--experts", "8",
                                 "--topk", "3", "--transport", "in_process", "--dtype", dtype});
    const std::vector<std::string> dispatchers = {
        "alltoall",        "allgather", "deepep", "deepepv2",
        "deepepv2+fusion", "hybridep",  "ncclep", "deepepv2+fusion+overlap"};
    ASSERT_EQ(run["results"].size(), 2 * dispatchers.size());
    for (std::size_t i = 0; i < run["results"].size(); ++i) {
      const json& result = run["results"][i];
      EXPECT_EQ(result["op"], i < dispatchers.size() ? "layer_forward" : "layer_forward_backward");
      EXPECT_EQ(result["dispatcher"], dispatchers[i % dispatchers.size()]);
      EXPECT_EQ(result["verified"], true) << result.dump();
      EXPECT_GT(result["rest_us"], 0);
      EXPECT_LT(result["rest_us"], result["p99_us"]);
      double shares = 0;
      for (const auto& [name, step] : result["steps"].items()) shares += step["share"].get<double>();
      EXPECT_NEAR(shares, 1, 1e-9);
      EXPECT_EQ(result["shared_expert_hidden"].is_null(), i % dispatchers.size() != 7);
    }
    EXPECT_EQ(run["results"][0]["rest_speedup"], 1);
  }
}

TEST_F(BenchTest, ALayerMayRunBesideOperationsAndAsProcesses) {
  if (FLEXEP_BENCH_HAS_MOE == 0) GTEST_SKIP() << "built without the MoE layer";
  const json run = results_of({"--ops", "dispatch,layer", "--ffn", "8"});
  ASSERT_EQ(run["results"].size(), 1u + 2 * 7);
  EXPECT_EQ(run["results"][0]["op"], "dispatch");
  for (const json& result : run["results"]) EXPECT_EQ(result["verified"], true) << result.dump();
}

TEST_F(BenchTest, AnInstructionSetThatTheMachineLacksIsAnErrorAndScalarIsNot) {
  const Arguments command = {FLEXEP_COMMAND, "bench", "--transport", "in_process", "--tokens", "5",
                             "--hidden",     "32",    "--iters",     "1",          "--ops",    "round_trip"};
  const auto run_with = [&](const char* target) {
    Arguments arguments = {"/usr/bin/env", std::string("FLEXEP_CPU_TARGET=") + target};
    arguments.insert(arguments.end(), command.begin(), command.end());
    return run_command(arguments);
  };
  EXPECT_EQ(run_with("scalar").exit_code, 0);
  const auto refused = run_with("altivec");
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_THAT(refused.err, HasSubstr("'altivec'"));
}

struct WrongUse {
  Arguments options;
  int exit_code;
  std::vector<std::string> named;
};

class BenchUsageTest : public ::testing::TestWithParam<WrongUse> {};

TEST_P(BenchUsageTest, IsRefusedInOneLineThatNamesIt) {
  const auto result = bench(GetParam().options);
  EXPECT_EQ(result.exit_code, GetParam().exit_code);
  EXPECT_THAT(result.out, IsEmpty());
  EXPECT_EQ(std::count(result.err.begin(), result.err.end(), '\n'), 1) << result.err;
  for (const auto& part : GetParam().named) EXPECT_THAT(result.err, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    Wrong, BenchUsageTest,
    ::testing::Values(WrongUse{{"--device", "cuda"}, 3, {"--device cuda"}},
                      WrongUse{{"--device", "abacus"}, 2, {"--device abacus", "cpu"}},
                      WrongUse{{"--transport", "pigeon"}, 2, {"--transport pigeon", "shm"}},
                      WrongUse{{"--ranks", "4", "--transport", "mpi", "--domains", "3"}, 2, {"--domains 3"}},
                      WrongUse{{"--domains", "2"}, 2, {"--domains 2", "mpi"}},
                      WrongUse{{"--mode", "sideways"}, 2, {"--mode sideways", "hybrid"}},
                      WrongUse{{"--ranks", "0"}, 2, {"--ranks 0"}},
                      WrongUse{{"--ranks", "3"}, 2, {"--experts 64", "--ranks 3"}},
                      WrongUse{{"--graph", "1"}, 2, {"--graph 1", "--device cuda"}},
                      WrongUse{{"--sync", "soon"}, 2, {"--sync soon", "none"}},
                      WrongUse{{"--active-ranks", "3"}, 2, {"--active-ranks 3"}},
                      WrongUse{{"--tokens", "-1"}, 2, {"--tokens -1"}},
                      WrongUse{{"--hidden", "12"}, 2, {"--hidden 12", "16 bytes"}},
                      WrongUse{{"--ffn", "0"}, 2, {"--ffn 0"}},
                      WrongUse{{"--shared-ffn", "-1"}, 2, {"--shared-ffn -1"}},
                      WrongUse{{"--topk", "65"}, 2, {"--topk 65"}},
                      WrongUse{{"--dtype", "fp7"}, 2, {"--dtype fp7", "bf16"}},
                      WrongUse{{"--dtype", "fp8_e4m3"}, 2, {"--ops combine", "fp8_e4m3"}},
                      WrongUse{{"--layout", "loose"}, 2, {"--layout loose", "expanded"}},
                      WrongUse{{"--ops", "dispatch,juggle"}, 2, {"--ops juggle"}},
                      WrongUse{{"--input", "punched"}, 2, {"--input punched", "arena"}},
                      WrongUse{{"--routing", "zipf:x"}, 2, {"--routing zipf:x"}},
                      WrongUse{{"--iters", "0"}, 2, {"--iters 0"}},
                      WrongUse{{"--json", "/no/such/folder/x.json"}, 2, {"--json /no/such/folder/x.json"}},
                      WrongUse{{"--json", "/usr"}, 2, {"--json /usr"}},
                      WrongUse{{"--frobnicate"}, 2, {"--frobnicate"}}),
    [](const auto& tested) { return std::to_string(tested.index); });

}  // namespace
}  // namespace flexep
