// SPDX-License-Identifier: Apache-2.0
//
// `flexep check` as a user sees it; what it checks is tested in tests/conformance.
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
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using Arguments = std::vector<std::string>;

Arguments check_arguments(const Arguments& options) {
  Arguments arguments = {FLEXEP_COMMAND, "check"};
  arguments.insert(arguments.end(), options.begin(), options.end());
  return arguments;
}

CommandResult check(const Arguments& options) {
  return run_command(check_arguments(options));
}

TEST(CheckTest, EndsWithTheNumberOfCasesAskedFor) {
  for (const char* transport : {"in_process", "shm", "all"}) {
    const auto result = check({"--transport", transport, "--ranks", "1,3", "--cases", "17"});
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
    EXPECT_EQ(result.out, "17 passed, 0 failed\n");
  }
}

TEST(CheckTest, FewerCasesThanGroupsAreRunAllTheSame) {
  EXPECT_EQ(check({"--ranks", "1,2,3", "--cases", "2"}).out, "2 passed, 0 failed\n");
}

TEST(CheckTest, ACaseOfItsOwnRunsOnEachGroup) {
  const Arguments one_case{"--transport", "in_process", "--ranks", "2,4", "--seed", "5", "--case", "123456"};
  // 2 ranks in 1 and 2 domains, 4 ranks in 1, 2 and 4.
  EXPECT_EQ(check(one_case).out, "5 passed, 0 failed\n");
  Arguments in_two_domains = one_case;
  in_two_domains.insert(in_two_domains.end(), {"--domains", "2"});
  EXPECT_EQ(check(in_two_domains).out, "2 passed, 0 failed\n");
}

TEST(CheckTest, RanksOfMpiPlayAsManyDomainsAsTheyAreTold) {
  if (FLEXEP_BENCH_HAS_MPI == 0) {
    EXPECT_EQ(check({"--transport", "mpi", "--ranks", "2", "--cases", "2"}).exit_code, 3);
    return;
  }
  const auto result =
      check({"--transport", "mpi", "--ranks", "2,4", "--domains", "1,2", "--cases", "13", "--seed", "7"});
  EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
  EXPECT_EQ(result.out, "13 passed, 0 failed\n");
}

TEST(CheckTest, DomainsThatDivideNoNumberOfRanksAreAMistake) {
  const auto result = check({"--transport", "in_process", "--ranks", "3,5", "--domains", "2"});
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(result.err, HasSubstr("no number of --ranks is a multiple of one of --domains"));
}

TEST(CheckTest, RunsAsTheRanksOfAJobThatIsAlreadyThere) {
  const auto result =
      run_command({FLEXEP_COMMAND, "launch", "-n", "2", "--", FLEXEP_COMMAND, "check", "--cases", "5"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(result.out, "[0] 5 passed, 0 failed\n");
}

/// A process whose parent is `parent`, -1 when there is none.
int child_of(int parent) {
  std::ifstream children("/proc/" + std::to_string(parent) + "/task/" + std::to_string(parent) + "/children");
  int pid = -1;
  children >> pid;
  return pid;
}

int wait_for_child_of(int parent) {
  for (int attempt = 0; attempt < 1000; ++attempt) {
    if (const int pid = child_of(parent); pid > 0) return pid;
    std::this_thread::sleep_for(10ms);
  }
  return -1;
}

TEST(CheckTest, ARankThatDiesIsAFailureWithACommandThatReproducesIt) {
  Command command(
      check_arguments({"--transport", "shm", "--ranks", "2", "--cases", "100000000", "--seed", "3"}));
  const int rank = wait_for_child_of(command.pid());
  ASSERT_GT(rank, 0);
  std::this_thread::sleep_for(300ms);
  kill(rank, SIGKILL);
  const auto result = command.wait();
  EXPECT_EQ(result.exit_code, 1);
  EXPECT_THAT(result.out, HasSubstr("the ranks ended with exit code 137"));
  EXPECT_THAT(result.out, HasSubstr("flexep check --device cpu --transport shm --ranks 2 --seed 3 --case "));

  long long num_passed = 0, num_failed = 0;
  const auto summary = result.out.substr(result.out.rfind('\n', result.out.size() - 2) + 1);
  ASSERT_EQ(std::sscanf(summary.c_str(), "%lld passed, %lld failed\n", &num_passed, &num_failed), 2)
      << summary;
  EXPECT_EQ(num_passed + num_failed, 100000000);
  EXPECT_GT(num_failed, 0);
}

}  // namespace
}  // namespace flexep
