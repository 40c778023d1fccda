// SPDX-License-Identifier: Apache-2.0
//
// What the command says to wrong options: one sentence that names option and value, exit code 2; 3 for what
// is not here.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "flexep/flexep.h"
#include "support/command.h"

namespace flexep {
namespace {

using flexep::testing::CommandResult;
using flexep::testing::run_command;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

CommandResult flexep_with(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), FLEXEP_COMMAND);
  return run_command(arguments);
}

struct WrongUse {
  std::vector<std::string> arguments;
  int exit_code;
  std::vector<std::string> named;
};

class UsageTest : public ::testing::TestWithParam<WrongUse> {};

TEST_P(UsageTest, IsRefusedInOneLineThatNamesIt) {
  const auto result = flexep_with(GetParam().arguments);
  EXPECT_EQ(result.exit_code, GetParam().exit_code);
  EXPECT_THAT(result.out, IsEmpty());
  EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  for (const auto& part : GetParam().named) EXPECT_THAT(result.err, HasSubstr(part));
}

INSTANTIATE_TEST_SUITE_P(
    Wrong, UsageTest,
    ::testing::Values(
        WrongUse{{}, 2, {"subcommand"}},                                         //
        WrongUse{{"frobnicate"}, 2, {"frobnicate"}},                             //
        WrongUse{{"version", "--wide"}, 2, {"--wide"}},                          //
        WrongUse{{"launch"}, 2, {"--ranks"}},                                    //
        WrongUse{{"launch", "-n", "2"}, 2, {"command"}},                         //
        WrongUse{{"launch", "-n", "0", "--", "true"}, 2, {"-n", "0"}},           //
        WrongUse{{"launch", "-n", "two", "--", "true"}, 2, {"--ranks", "two"}},  //
        WrongUse{{"launch", "-n", "2", "--grace-secs", "-1", "--", "true"}, 2, {"--grace-secs", "-1"}},
        WrongUse{{"check", "--transport", "pigeon"}, 2, {"--transport", "pigeon"}},  //
        WrongUse{{"check", "--device", "tpu"}, 2, {"--device", "tpu"}},              //
        WrongUse{{"check", "--device", "cuda"}, 3, {"--device", "cuda"}},            //
        WrongUse{{"check", "--ranks", "2,0"}, 2, {"--ranks", "0"}},                  //
        WrongUse{{"check", "--cases", "0"}, 2, {"--cases", "0"}},                    //
        WrongUse{{"check", "--case", "-2"}, 2, {"--case", "-2"}},                    //
        WrongUse{{"check", "--seed", "x"}, 2, {"--seed", "x"}},
        WrongUse{{"check", "--domains", "0"}, 2, {"--domains", "0"}},
        WrongUse{{"check", "--cases", "9223372036854775807"}, 2, {"--cases", "9223372036854775807"}},
        WrongUse{{"check", "--case", "99999999999999999999"}, 2, {"--case"}},
        WrongUse{{"launch", "-n", "100000", "--", "true"}, 2, {"-n", "100000"}},
        WrongUse{{"plan", "--topology", "8"}, 2, {"--topology", "8", "2x8"}},
        WrongUse{{"plan", "--topology", "0x4"}, 2, {"--topology", "0x4"}},
        WrongUse{{"plan", "--topology", "2x4x"}, 2, {"--topology", "2x4x"}},
        WrongUse{{"plan", "--topology", "99999x99999"}, 2, {"--topology", "4096"}},
        WrongUse{{"plan", "--topology", "3x3"}, 2, {"--experts", "256", "9 ranks"}},
        WrongUse{{"plan", "--experts", "8", "--topk", "9"}, 2, {"--topk", "9"}},
        WrongUse{{"plan", "--tokens", "0"}, 2, {"--tokens", "0"}},
        WrongUse{
            {"plan", "--tokens", "1048576", "--topology", "512x8", "--experts", "4096"}, 2, {"--tokens"}},
        WrongUse{{"plan", "--hidden", "3"}, 2, {"--hidden", "3"}},
        WrongUse{{"plan", "--dtype", "int9"}, 2, {"--dtype", "int9"}},
        WrongUse{{"plan", "--link-gbs", "-1"}, 2, {"--link-gbs", "-1"}},
        WrongUse{{"plan", "--net-gbs", "0"}, 2, {"--net-gbs", "0"}},
        WrongUse{{"plan", "--memory-gbs", "nan"}, 2, {"--memory-gbs", "nan"}},
        WrongUse{{"plan", "--net-us", "-2"}, 2, {"--net-us", "-2"}},
        WrongUse{{"plan", "--skew", "zipf:"}, 2, {"--skew", "zipf:"}},
        WrongUse{{"plan", "--skew", "zipf:-1"}, 2, {"--skew", "zipf:-1"}},
        WrongUse{{"plan", "--skew", "pareto:2"}, 2, {"--skew", "pareto:2"}},
        WrongUse{{"plan", "--simulate", "--max-ranks", "4"}, 2, {"--max-ranks", "4"}},
        WrongUse{{"plan", "--machine", "/no/such"}, 2, {"--machine", "/no/such"}},
        WrongUse{{"plan", "--machine", "/usr"}, 2, {"--machine", "/usr"}},
        WrongUse{{"plan", "--calibrate", "/no/such"}, 2, {"--calibrate", "/no/such"}},
        WrongUse{{"plan", "--json", "/no/such/folder/x"}, 2, {"--json", "/no/such/folder/x"}},
        WrongUse{{"doctor", "--json", "/no/such/folder/x"}, 2, {"--json", "/no/such/folder/x"}},
        WrongUse{{"doctor", "--root"}, 2, {"--root"}},
        WrongUse{{"doctor", "--root", "/no/such"}, 2, {"--root", "/no/such"}}),
    [](const auto& tested) { return std::to_string(tested.index); });

TEST(OutputTest, ThatCannotBeWrittenIsAFailure) {
  for (const char* command : {"version", "plan", "doctor"}) {
    const auto result = run_command({"sh", "-c", std::string(FLEXEP_COMMAND) + " " + command + " >&-"});
    EXPECT_EQ(result.exit_code, 1) << command;
    EXPECT_THAT(result.err, HasSubstr("output")) << command;
  }
}

TEST(OutputTest, GoesIntoAPipeThatIsNamedAndLeavesItThere) {
  const auto pipe = std::filesystem::temp_directory_path() / fmt::format("flexep_pipe_{}", getpid());
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const auto result = run_command(
      {"sh", "-c", fmt::format("cat {0} & {1} doctor --json {0} >&2; wait", pipe.string(), FLEXEP_COMMAND)});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("\"findings\""));
  EXPECT_TRUE(std::filesystem::is_fifo(pipe));
  std::filesystem::remove(pipe);
}

TEST(VersionTest, SaysWhatThisIs) {
  const auto result = flexep_with({"version"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr(std::string("flexep ") + version()));
  for (const char* part : {"compiler", "build type", "in_process", "shm", "cpu"}) {
    EXPECT_THAT(result.out, HasSubstr(part));
  }
}

TEST(HelpTest, IsNoError) {
  EXPECT_EQ(flexep_with({"--help"}).exit_code, 0);
  const auto result = flexep_with({"check", "--help"});
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("--transport"));
}

}  // namespace
}  // namespace flexep
