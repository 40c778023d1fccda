// SPDX-License-Identifier: Apache-2.0
//
// `flexep plan` and `flexep doctor` as a user runs them; what they say is tested in tests/unit.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/command.h"

namespace flexep {
namespace {

using flexep::testing::CommandResult;
using flexep::testing::run_command;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

CommandResult flexep_with(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), FLEXEP_COMMAND);
  return run_command(arguments);
}

Json json_from(std::vector<std::string> arguments) {
  arguments.insert(arguments.end(), {"--json", "-"});
  const auto result = flexep_with(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  return Json::parse(result.out);
}

TEST(PlanTest, SaysEverythingOnOnePage) {
  const auto result =
      flexep_with({"plan", "--topology", "2x8", "--experts", "256", "--topk", "8", "--tokens", "4096",
                   "--hidden", "7168", "--dtype", "bf16", "--link-gbs", "450", "--net-gbs", "50"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.err, IsEmpty());
  for (const char* part :
       {"2 domains of 8 ranks", "6.523 ranks in 1.993 domains", "scale-up", "scale-out", "hybrid", "direct",
        "recv.x", "num_sms 12", "num_qps 129", "bottleneck", "At twice the ranks"}) {
    EXPECT_THAT(result.out, HasSubstr(part));
  }
}

TEST(PlanTest, JsonGoesToAFileBesideTheText) {
  const auto file = std::filesystem::temp_directory_path() / ("flexep_plan_json_" + std::to_string(getpid()));
  const auto result = flexep_with({"plan", "--skew", "zipf:1.2", "--tokens", "64", "--json", file.string()});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("zipf:1.2 routing: 64 tokens of each rank drawn"));
  EXPECT_EQ(Json::parse(std::ifstream(file))["plan"]["inputs"]["zipf_exponent"], 1.2);
  std::filesystem::remove(file);
}

TEST(PlanTest, BytesAreThoseThatBenchCounts) {
  for (const std::string layout : {"compact", "expanded"}) {
    const auto file =
        std::filesystem::temp_directory_path() / ("flexep_bench_json_" + std::to_string(getpid()));
    const auto bench = flexep_with(
        {"bench",    "--transport", "in_process",       "--ranks", "2",      "--tokens", "512",
         "--hidden", "64",          "--experts",        "16",      "--topk", "4",        "--layout",
         layout,     "--ops",       "dispatch,combine", "--iters", "1",      "--warmup", "0",
         "--json",   file.string()});
    ASSERT_EQ(bench.exit_code, 0) << bench.err;
    const Json measured = Json::parse(std::ifstream(file))["results"];
    std::filesystem::remove(file);
    const Json planned = json_from({"plan", "--topology", "1x2", "--tokens", "512", "--hidden", "64",
                                    "--experts", "16", "--topk", "4"})["plan"]["operations"];
    for (const Json& result : measured) {
      for (const Json& operation : planned) {
        if (operation["op"] != result["op"] || operation["layout"] != layout) continue;
        const double planned_bytes = 2 * operation["mean"]["scaleup_bytes"].get<double>();
        EXPECT_NEAR(result["link_bytes"].get<double>(), planned_bytes, 0.05 * planned_bytes);
        const double memory = result["bytes_read"].get<double>() + result["bytes_written"].get<double>();
        EXPECT_NEAR(memory, 2 * operation["mean"]["memory_bytes"].get<double>(), 0.05 * memory);
      }
    }
  }
}

TEST(PlanTest, SimulatesAsRanksGrow) {
  const auto arguments = std::vector<std::string>{"plan",       "--topology", "1x8",    "--tokens",    "64",
                                                  "--simulate", "--skew",     "zipf:1", "--max-ranks", "64"};
  const auto result = flexep_with(arguments);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("64 ranks, 256 experts; 64 tokens a rank drawn, all of them"));
  const Json steps = json_from(arguments)["simulation"];
  ASSERT_EQ(steps.size(), 4u);
  EXPECT_EQ(steps[3]["inputs"]["num_ranks"], 64);
}

TEST(DoctorTest, LooksAtThisMachine) {
  const auto result = flexep_with({"doctor"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  for (const char* part : {"cores", "huge pages", "open files", "network", "MPI", "GPUs",
                           "What flexep chooses here", "instruction set"}) {
    EXPECT_THAT(result.out, HasSubstr(part));
  }
  EXPECT_EQ(json_from({"doctor"})["schema_version"], 1);
}

TEST(DoctorTest, AMachineWithoutAnyFileIsNoError) {
  const auto root = std::filesystem::temp_directory_path() / ("flexep_bare_" + std::to_string(getpid()));
  std::filesystem::create_directory(root);
  const auto result = flexep_with({"doctor", "--root", root.string()});
  std::filesystem::remove(root);
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_THAT(result.out, HasSubstr("unknown"));
}

}  // namespace
}  // namespace flexep
