// SPDX-License-Identifier: Apache-2.0
//
// Jobs of MPI on one machine, which plays several where FLEXEP_SCALEUP_SIZE says so.
#include "mpi.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <tuple>

namespace flexep::testing {
namespace {

using ::testing::Combine;
using ::testing::HasSubstr;
using ::testing::TestWithParam;
using ::testing::Values;
using ::testing::ValuesIn;

std::string all_output(const CommandResult& result) {
  return result.out + result.err;
}

void expect_success(const Mpi& mpi, const MpiJob& job) {
  const auto result = run_command(command_of(mpi, job));
  EXPECT_EQ(result.exit_code, 0) << all_output(result);
}

/// Ranks, and how many of them make a domain.
struct Shape {
  int num_ranks;
  int num_scaleup_ranks;
};
std::ostream& operator<<(std::ostream& out, const Shape& shape) {
  return out << shape.num_ranks << " ranks in domains of " << shape.num_scaleup_ranks;
}

class MpiJobTest : public TestWithParam<std::tuple<Mpi, Shape>> {
 protected:
  void run(const std::string& scenario) const {
    const auto& [mpi, shape] = GetParam();
    expect_success(mpi, {.num_ranks = shape.num_ranks,
                         .program = rank_program(scenario),
                         .environment = {"FLEXEP_SCALEUP_SIZE=" + std::to_string(shape.num_scaleup_ranks)}});
  }
};

TEST_P(MpiJobTest, CollectivesGiveWhatTheyGiveOnOtherTransports) {
  run("collectives");
}
TEST_P(MpiJobTest, GroupsDoNotMeetEachOthersMessages) {
  run("splits");
}

std::string name_of(const ::testing::TestParamInfo<MpiJobTest::ParamType>& test) {
  const auto& [mpi, shape] = test.param;
  return mpi.name + std::to_string(shape.num_ranks) + "RanksInDomainsOf" +
         std::to_string(shape.num_scaleup_ranks);
}

INSTANTIATE_TEST_SUITE_P(, MpiJobTest,
                         Combine(ValuesIn(Mpi::all()),
                                 Values(Shape{2, 1}, Shape{4, 4}, Shape{4, 2}, Shape{8, 2})),
                         name_of);

class MpiConformanceTest : public MpiJobTest {};

TEST_P(MpiConformanceTest, BuffersAgreeWithTheReferenceToTheBit) {
  run("conformance");
}

INSTANTIATE_TEST_SUITE_P(, MpiConformanceTest,
                         Combine(ValuesIn(Mpi::all()),
                                 Values(Shape{2, 2}, Shape{2, 1}, Shape{3, 3}, Shape{3, 1}, Shape{4, 4},
                                        Shape{4, 2}, Shape{4, 1}, Shape{8, 4}, Shape{8, 2})),
                         name_of);

class MpiTest : public TestWithParam<Mpi> {};

TEST_P(MpiTest, MachineIsOneDomainUnlessToldOtherwise) {
  expect_success(GetParam(), {.num_ranks = 3, .program = rank_program("collectives")});
}

TEST_P(MpiTest, GroupsOfARankWorkOnThreadsOfTheirOwn) {
  expect_success(GetParam(), {.num_ranks = 4,
                              .program = rank_program("groups_of_threads"),
                              .environment = {"FLEXEP_SCALEUP_SIZE=2"}});
}

TEST_P(MpiTest, DomainsOfDifferentSizesAreRefusedOnAllRanks) {
  const auto result = run_command(command_of(
      GetParam(),
      {.num_ranks = 4, .program = rank_program("nothing"), .environment = {"FLEXEP_SCALEUP_SIZE=3"}}));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(all_output(result),
              HasSubstr("InvalidArgument(FLEXEP_SCALEUP_SIZE): domains of 3 ranks are asked for, "
                        "which does not divide what the machines have: 4"));
}

TEST_P(MpiTest, MissingLibraryIsNamed) {
  const auto result =
      run_command(command_of(GetParam(), {.num_ranks = 2,
                                          .program = rank_program("nothing"),
                                          .environment = {"FLEXEP_MPI_LIBRARY=/none/such.so"}}));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(all_output(result), HasSubstr("InvalidArgument(FLEXEP_MPI_LIBRARY)"));
  EXPECT_THAT(all_output(result), HasSubstr("/none/such.so"));
}

TEST_P(MpiTest, LauncherOfAnotherMpiIsRefused) {
  const auto mpis = Mpi::all();
  if (mpis.size() == 1) GTEST_SKIP() << "there is only one MPI";
  Mpi mixed = GetParam();
  mixed.library = (mixed.name == mpis[0].name ? mpis[1] : mpis[0]).library;
  const auto result = run_command(command_of(mixed, {.num_ranks = 2, .program = rank_program("nothing")}));
  EXPECT_NE(result.exit_code, 0);
  EXPECT_THAT(all_output(result), HasSubstr("the launcher belongs to another MPI"));
}

TEST_P(MpiTest, ProgramHandsItsOwnCommunicatorOver) {
  for (const std::string level : {"funneled", "serialized", "multiple"}) {
    expect_success(GetParam(), {.num_ranks = 4,
                                .program = {GetParam().application, "conformance", level},
                                .environment = {"FLEXEP_SCALEUP_SIZE=2"}});
  }
}

INSTANTIATE_TEST_SUITE_P(, MpiTest, ValuesIn(Mpi::all()), [](const auto& test) { return test.param.name; });

}  // namespace
}  // namespace flexep::testing
