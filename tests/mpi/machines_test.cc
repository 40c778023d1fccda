// SPDX-License-Identifier: Apache-2.0
//
// Jobs of MPI on several machines, played by this one: they share no network but cables, over which MPI
// speaks TCP.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "machines_fixture.h"

namespace flexep::testing {
namespace {

using namespace std::chrono_literals;
using ::testing::AnyOf;
using ::testing::MatchesRegex;
using ::testing::ValuesIn;

TEST_P(MachinesTest, MachinesAreDomains) {
  const Machines machines(2);
  const auto before = machines.num_bytes_sent(1);
  for (const std::string scenario : {"collectives", "conformance"}) {
    const auto result =
        run_command(machines.command_of(GetParam(), {.num_ranks = 4, .program = rank_program(scenario)}));
    EXPECT_EQ(result.exit_code, 0) << result.out << result.err;
  }
  // The sums alone are more: the cable is what the ranks spoke over.
  EXPECT_GT(machines.num_bytes_sent(1) - before, 300'000);
}

/// A job whose ranks leave word in a folder.
class EnduringJob {
 public:
  EnduringJob(const Machines& machines, const Mpi& mpi, const std::vector<std::string>& killed)
      : folder_(make_folder()), launcher_(machines.command_of(mpi, job(mpi, killed))) {}
  ~EnduringJob() { std::filesystem::remove_all(folder_); }
  EnduringJob(const EnduringJob&) = delete;
  EnduringJob& operator=(const EnduringJob&) = delete;

  /// What a rank has left, once it has.
  std::string await(const std::string& kind, int rank) const {
    const auto path = folder_ / (kind + "." + std::to_string(rank));
    for (int i = 0; i < 400 && !std::filesystem::exists(path); ++i) std::this_thread::sleep_for(100ms);
    std::ifstream file(path);
    if (!file) return "nothing; the launcher says: " + launcher_.out() + launcher_.err();
    std::string text;
    std::getline(file, text);
    return text;
  }

 private:
  static std::filesystem::path make_folder() {
    std::string name = (std::filesystem::temp_directory_path() / "flexep_machines_XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) throw std::runtime_error("no folder");
    return name;
  }

  MpiJob job(const Mpi& mpi, const std::vector<std::string>& killed) const {
    std::vector<std::string> program = {MPI_ENDURING_RANK, folder_.string()};
    program.insert(program.end(), killed.begin(), killed.end());
    return {.num_ranks = 4,
            .program = program,
            .options = {mpi.is_open_mpi() ? "--enable-recovery" : "-disable-auto-cleanup"}};
  }

  std::filesystem::path folder_;
  Command launcher_;  ///< does not end by itself while a machine is cut off
};

// An error that names ranks of that machine: those that the others still waited for.
auto names(const std::string& first, const std::string& second) {
  return MatchesRegex("(Timeout|Transport)Error( " + first + "| " + second + "| " + first + " " + second +
                      ")");
}

TEST_P(MachinesTest, MachineThatIsCutOffIsNamedOnAllRanks) {
  const Machines machines(2);
  const EnduringJob job(machines, GetParam(), {});
  for (int rank = 0; rank < 4; ++rank) ASSERT_EQ(job.await("running", rank), "");
  machines.cut_off(1);
  for (const int rank : {0, 1}) ASSERT_THAT(job.await("verdict", rank), names("2", "3")) << rank;
  for (const int rank : {2, 3}) ASSERT_THAT(job.await("verdict", rank), names("0", "1")) << rank;
  for (int rank = 0; rank < 4; ++rank) ASSERT_EQ(job.await("ended", rank), "");
}

TEST_P(MachinesTest, MachineWhoseRanksAreKilledIsNamedOnTheOthers) {
  const Machines machines(2);
  const EnduringJob job(machines, GetParam(), {"2", "3"});
  for (const int rank : {0, 1}) {
    ASSERT_THAT(job.await("verdict", rank), names("2", "3")) << rank;
    ASSERT_EQ(job.await("ended", rank), "");
  }
}

TEST_P(MachinesTest, RankThatIsKilledIsNamedOnEveryMachine) {
  if (!GetParam().is_open_mpi()) GTEST_SKIP() << "MPICH's launcher may end the other ranks of that machine";
  const Machines machines(2);
  const EnduringJob job(machines, GetParam(), {"3"});
  for (const int rank : {0, 1, 2}) {
    ASSERT_THAT(job.await("verdict", rank), AnyOf("TransportError 3", "TimeoutError 3")) << rank;
    ASSERT_EQ(job.await("ended", rank), "");
  }
}

INSTANTIATE_TEST_SUITE_P(, MachinesTest, ValuesIn(Mpi::all()),
                         [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace flexep::testing
