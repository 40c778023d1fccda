// SPDX-License-Identifier: Apache-2.0
//
// How launchers are told apart by what they leave in the environment.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <string>

#include "flexep/communicator.h"
#include "flexep/env.h"
#include "flexep/error.h"

namespace flexep {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

constexpr const char* kNames[] = {"RANK",
                                  "WORLD_SIZE",
                                  "OMPI_COMM_WORLD_SIZE",
                                  "PMI_SIZE",
                                  "PMI_RANK",
                                  "PMIX_RANK",
                                  "SLURM_NTASKS",
                                  "SLURM_PROCID",
                                  "SLURM_JOB_ID",
                                  "SLURM_STEP_NUM_TASKS",
                                  "FLEXEP_MPI_LIBRARY"};

/// Nothing but these variables, of those that launchers set.
class EnvironmentTest : public testing::Test {
 protected:
  void SetUp() override { set({}); }
  void TearDown() override { set({}); }
  static void set(const std::map<std::string, std::string>& variables) {
    for (const char* name : kNames) unsetenv(name);
    for (const auto& [name, value] : variables) setenv(name.c_str(), value.c_str(), 1);
  }
};

TEST_F(EnvironmentTest, MpirunOfOpenMpiSaysHowManyRanksItHasStarted) {
  set({{"OMPI_COMM_WORLD_SIZE", "64"}});
  EXPECT_EQ(Environment::read().mpi_num_ranks, 64);
}

TEST_F(EnvironmentTest, MpiexecOfMpichAndSrunWithPmi2Do) {
  set({{"PMI_RANK", "3"}, {"PMI_SIZE", "8"}});
  EXPECT_EQ(Environment::read().mpi_num_ranks, 8);
  set({{"PMI_RANK", "3"}, {"PMI_SIZE", "8"}, {"SLURM_NTASKS", "16"}, {"SLURM_STEP_NUM_TASKS", "8"}});
  EXPECT_EQ(Environment::read().mpi_num_ranks, 8);
}

TEST_F(EnvironmentTest, SrunWithPmixCountsByItsStep) {
  set({{"PMIX_RANK", "0"}, {"SLURM_NTASKS", "16"}});
  EXPECT_EQ(Environment::read().mpi_num_ranks, 16);
  set({{"PMIX_RANK", "0"}, {"SLURM_NTASKS", "16"}, {"SLURM_STEP_NUM_TASKS", "4"}});
  EXPECT_EQ(Environment::read().mpi_num_ranks, 4);
}

TEST_F(EnvironmentTest, SrunWithoutAnInterfaceOfMpiStartsRanksOfTheirOwn) {
  set({{"SLURM_JOB_ID", "7"}, {"SLURM_PROCID", "3"}, {"SLURM_NTASKS", "16"}});
  EXPECT_EQ(Environment::read().mpi_num_ranks, std::nullopt);
  EXPECT_EQ(Communicator::from_environment().num_ranks(), 1);
}

TEST_F(EnvironmentTest, LauncherOfOneRankNeedsNoMpi) {
  set({{"PMIX_RANK", "0"}, {"SLURM_STEP_NUM_TASKS", "1"}, {"FLEXEP_MPI_LIBRARY", "/none/such.so"}});
  EXPECT_EQ(Communicator::from_environment().num_ranks(), 1);
}

TEST_F(EnvironmentTest, LauncherOfSeveralRanksLeadsToMpi) {
  set({{"PMIX_RANK", "0"}, {"SLURM_STEP_NUM_TASKS", "4"}, {"FLEXEP_MPI_LIBRARY", "/none/such.so"}});
  EXPECT_THAT([] { Communicator::from_environment(); },
              ThrowsMessage<InvalidArgument>(HasSubstr("this job needs MPI")));
}

TEST_F(EnvironmentTest, RanksOfTorchrunWinOverALauncherOfMpi) {
  set({{"RANK", "0"}, {"WORLD_SIZE", "1"}, {"OMPI_COMM_WORLD_SIZE", "64"}});
  EXPECT_EQ(Communicator::from_environment().num_ranks(), 1);
}

TEST_F(EnvironmentTest, WhatIsNoNumberIsNamed) {
  set({{"PMI_SIZE", "four"}});
  EXPECT_THAT([] { Environment::read(); },
              ThrowsMessage<InvalidArgument>(HasSubstr("environment variable PMI_SIZE is 'four'")));
}

}  // namespace
}  // namespace flexep
