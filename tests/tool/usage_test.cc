// SPDX-License-Identifier: Apache-2.0
//
// What the command says to wrong options: one sentence that names option and value, exit code 2; 3 for what
// is not here.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

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
        WrongUse{{"check", "--seed", "x"}, 2, {"--seed", "x"}}),
    [](const auto& tested) { return std::to_string(tested.index); });

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
