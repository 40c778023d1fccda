// SPDX-License-Identifier: Apache-2.0
//
// `flexep launch` as a user sees it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <fstream>
#include <thread>

#include "support/command.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;
using flexep::testing::Command;
using flexep::testing::CommandResult;
using flexep::testing::run_command;
using flexep::testing::sorted_lines;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using Arguments = std::vector<std::string>;

/// flexep launch <options> -- sh -c <script>
Arguments launch_script(const Arguments& options, const std::string& script) {
  Arguments arguments = {FLEXEP_COMMAND, "launch"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  for (const char* rest : {"--", "sh", "-c", script.c_str()}) arguments.push_back(rest);
  return arguments;
}

CommandResult launch(const Arguments& options, const std::string& script) {
  return run_command(launch_script(options, script));
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

TEST(LaunchTest, RanksKnowWhoTheyAre) {
  const auto result = launch({"-n", "3"}, "echo $RANK of $WORLD_SIZE, $LOCAL_RANK of $LOCAL_WORLD_SIZE here");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(sorted_lines(result.out),
              ElementsAre("[0] 0 of 3, 0 of 3 here", "[1] 1 of 3, 1 of 3 here", "[2] 2 of 3, 2 of 3 here"));
  EXPECT_THAT(result.err, IsEmpty());
}

TEST(LaunchTest, EachJobHasAnIdOfItsOwnThatItsRanksShare) {
  const auto ids = [] { return sorted_lines(launch({"-n", "2", "--no-prefix"}, "echo $FLEXEP_JOB_ID").out); };
  const auto first = ids(), second = ids();
  ASSERT_EQ(first.size(), 2u);
  EXPECT_FALSE(first[0].empty());
  EXPECT_EQ(first[0], first[1]);
  EXPECT_NE(first[0], second[0]);
}

TEST(LaunchTest, StdoutAndStderrAreKeptApart) {
  const auto result = launch({"-n", "2"}, "echo out; echo err >&2");
  EXPECT_THAT(sorted_lines(result.out), ElementsAre("[0] out", "[1] out"));
  EXPECT_THAT(sorted_lines(result.err), ElementsAre("[0] err", "[1] err"));
}

TEST(LaunchTest, LinesAreWholeAndAnUnfinishedLastLineIsShown) {
  const auto result = launch({"-n", "2"}, "printf 'be'; sleep 0.1; printf 'gin\\nend'");
  EXPECT_THAT(sorted_lines(result.out), ElementsAre("[0] begin", "[0] end", "[1] begin", "[1] end"));
}

TEST(LaunchTest, NoLineOfAMassIsLost) {
  const auto result = launch({"-n", "3"}, "seq 1 30000");
  const auto lines = sorted_lines(result.out);
  EXPECT_EQ(lines.size(), 90000u);
  EXPECT_THAT(result.out, HasSubstr("[2] 30000\n"));
}

TEST(LaunchTest, WithoutPrefixOutputIsLeftAsItIs) {
  const auto result = launch({"-n", "1", "--no-prefix"}, "printf 'no newline'");
  EXPECT_EQ(result.out, "no newline");
}

TEST(LaunchTest, TheFirstFailingExitCodeIsReturned) {
  const auto result = launch({"-n", "3"}, "[ $RANK = 1 ] && exit 3; sleep 0.3; exit 4");
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("rank 1 ended with exit code 3"));
}

TEST(LaunchTest, AKilledRankGives128PlusItsSignal) {
  const auto result = launch({"-n", "2", "--grace-secs", "0.1"}, "[ $RANK = 1 ] && kill -9 $$; sleep 30");
  EXPECT_EQ(result.exit_code, 137);
  EXPECT_THAT(result.err, HasSubstr("rank 1 was killed by signal 9"));
}

TEST(LaunchTest, TheOthersMayReportWithinTheGracePeriod) {
  const auto result = launch({"-n", "2"}, "[ $RANK = 1 ] && exit 3; sleep 0.5; echo reported");
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.out, HasSubstr("[0] reported"));
}

TEST(LaunchTest, WhoIsStillThereAfterTheGracePeriodIsTerminated) {
  const auto start = std::chrono::steady_clock::now();
  const auto result = launch({"-n", "2", "--grace-secs", "0.2"},
                             "[ $RANK = 1 ] && exit 3; trap 'echo terminated; exit 0' TERM; sleep 30 & wait");
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.out, HasSubstr("[0] terminated"));
  EXPECT_LT(seconds_since(start), 10);
}

TEST(LaunchTest, WhoIgnoresTerminationIsKilledASecondLater) {
  const auto start = std::chrono::steady_clock::now();
  const auto result =
      launch({"-n", "2", "--grace-secs", "0.2"}, "[ $RANK = 1 ] && exit 3; trap '' TERM; sleep 30");
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_THAT(result.err, HasSubstr("rank 0 was killed by signal 9"));
  EXPECT_GT(seconds_since(start), 1.1);
  EXPECT_LT(seconds_since(start), 15);
}

TEST(LaunchTest, ARankThatEndsWellLeavesTheOthersAlone) {
  const auto result =
      launch({"-n", "2", "--grace-secs", "0"}, "[ $RANK = 1 ] && exit 0; sleep 0.5; echo done");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(result.out, HasSubstr("[0] done"));
}

class LaunchSignalTest : public ::testing::TestWithParam<std::pair<int, const char*>> {};

TEST_P(LaunchSignalTest, IsForwardedToEveryRank) {
  const auto [signal, name] = GetParam();
  const std::string trap = std::string("trap 'echo got it; exit 7' ") + name;
  Command command(launch_script({"-n", "2"}, trap + "; echo ready; while :; do sleep 0.05; done"));
  ASSERT_TRUE(command.wait_for_lines(2));
  command.send(signal);
  const auto result = command.wait();
  EXPECT_EQ(result.exit_code, 7);
  EXPECT_THAT(result.out, HasSubstr("[0] got it"));
  EXPECT_THAT(result.out, HasSubstr("[1] got it"));
}

INSTANTIATE_TEST_SUITE_P(All, LaunchSignalTest,
                         ::testing::Values(std::pair(SIGINT, "INT"), std::pair(SIGTERM, "TERM"),
                                           std::pair(SIGHUP, "HUP")),
                         [](const auto& tested) { return std::string(tested.param.second); });

/// False for a zombie, too.
bool is_alive(const std::string& pid) {
  std::ifstream stat("/proc/" + pid + "/stat");
  std::string number, name, state;
  return (stat >> number >> name >> state) && state != "Z";
}

bool all_end_within(const Arguments& pids, std::chrono::seconds limit) {
  const auto alive = [&] { return std::any_of(pids.begin(), pids.end(), is_alive); };
  for (const auto give_up_at = std::chrono::steady_clock::now() + limit;
       std::chrono::steady_clock::now() < give_up_at;) {
    if (!alive()) return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

TEST(LaunchTest, RanksDoNotOutliveALauncherThatIsKilled) {
  Command command(launch_script({"-n", "3", "--no-prefix"}, "echo $$; exec sleep 60"));
  ASSERT_TRUE(command.wait_for_lines(3));
  const auto pids = sorted_lines(command.out());
  for (const auto& pid : pids) EXPECT_TRUE(is_alive(pid));
  command.send(SIGKILL);
  EXPECT_EQ(command.wait().exit_code, 137);
  EXPECT_TRUE(all_end_within(pids, 10s));
}

TEST(LaunchTest, ABackgroundProcessThatHoldsTheOutputDelaysNobody) {
  const auto start = std::chrono::steady_clock::now();
  const auto result = launch({"-n", "2"}, "sleep 20 & echo done; echo $! >&2");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_THAT(sorted_lines(result.out), ElementsAre("[0] done", "[1] done"));
  EXPECT_LT(seconds_since(start), 10);
  for (const auto& line : sorted_lines(result.err)) kill(std::stoi(line.substr(4)), SIGKILL);
}

TEST(LaunchTest, WhatAFailedRankLeavesBehindIsKilled) {
  Command command(launch_script({"-n", "1"}, "sleep 60 & echo $!; exit 5"));
  const auto result = command.wait();
  EXPECT_EQ(result.exit_code, 5);
  EXPECT_TRUE(all_end_within({sorted_lines(result.out)[0].substr(4)}, 10s));
}

TEST(LaunchTest, AProgramThatIsNotThereIsNamed) {
  const auto result = run_command({FLEXEP_COMMAND, "launch", "-n", "2", "--", "no-such-program"});
  EXPECT_EQ(result.exit_code, 127);
  EXPECT_THAT(result.err, HasSubstr("cannot run 'no-such-program': No such file or directory"));
}

TEST(LaunchTest, AProgramThatCannotBeRunIsNamed) {
  const auto result = run_command({FLEXEP_COMMAND, "launch", "-n", "2", "--", "/etc/passwd"});
  EXPECT_EQ(result.exit_code, 126);
  EXPECT_THAT(result.err, HasSubstr("cannot run '/etc/passwd': Permission denied"));
}

TEST(LaunchTest, ExitCodesAreRightWhenOurParentIgnoresChildren) {
  const auto result =
      run_command({"sh", "-c", "trap '' CHLD; exec " FLEXEP_COMMAND " launch -n 2 -- sh -c 'exit 9'"});
  EXPECT_EQ(result.exit_code, 9);
}

TEST(LaunchTest, OptionsOfTheProgramAreLeftToIt) {
  const auto result = run_command({FLEXEP_COMMAND, "launch", "-n", "1", "--", "echo", "-n", "5", "--help"});
  EXPECT_EQ(result.out, "[0] 5 --help\n");
}

TEST(LaunchTest, RanksReadNothing) {
  EXPECT_EQ(launch({"-n", "2"}, "cat").exit_code, 0);
}

}  // namespace
}  // namespace flexep
