// SPDX-License-Identifier: Apache-2.0
//
// How ranks learn that another one is gone, whatever still refers to its part of the group.
#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <thread>

#include "flexep/flexep.h"
#include "job.h"
#include "transport/transport.h"

namespace flexep {
namespace {

using test::job_id;
using test::num_failed;
using test::Processes;
using namespace std::chrono_literals;

// Whether a barrier says, long before the group's timeout and before kLinger is over, that rank 1 is gone.
constexpr auto kLinger = 20s;
bool learns_that_rank_1_is_gone(Communicator& comm) {
  const auto begin = std::chrono::steady_clock::now();
  try {
    comm.barrier();
  } catch (const TransportError& error) {
    return error.failed_ranks() == std::vector<int>{1} &&
           std::chrono::steady_clock::now() - begin < kLinger / 2;
  }
  return false;
}

TEST(DepartureTest, RankThatLeavesIsNamedThoughItsMemoryIsStillHeld) {
  Processes processes(job_id("leave"), 2, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    if (rank == 0) return learns_that_rank_1_is_gone(comm) ? 0 : 1;
    const Segment held = comm.transport().create_segment(4096);
    comm.transport().leave();
    comm.transport().leave();
    EXPECT_THROW(comm.barrier(), TransportError);
    EXPECT_THROW(comm.transport().create_segment(4096), TransportError);
    if (testing::Test::HasFailure()) return 1;
    std::this_thread::sleep_for(kLinger);
    return 0;
  });
  EXPECT_EQ(processes.exit_code_of(0), 0);
  processes.signal(1, SIGKILL);
  EXPECT_EQ(processes.exit_code_of(1), 128 + SIGKILL);
}

TEST(DepartureTest, DeathIsNoticedWhileAForkedChildLives) {
  Processes processes(job_id("forked"), 2, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    comm.barrier();
    if (rank == 0) return learns_that_rank_1_is_gone(comm) ? 0 : 1;
    if (fork() == 0) {
      close(STDOUT_FILENO);
      close(STDERR_FILENO);
      std::this_thread::sleep_for(kLinger);
    }
    std::_Exit(0);
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

TEST(DepartureTest, ForkedChildDoesNotSpeakForItsParent) {
  Processes processes(job_id("copy"), 2, [](int rank) {
    std::optional<Communicator> comm = Communicator::from_environment({.timeout = 60s});
    Segment segment;
    if (rank == 1) segment = comm->transport().create_segment(4096);
    if (rank == 1 && fork() == 0) {
      segment = {};
      comm.reset();
      std::_Exit(0);
    }
    if (rank == 1) wait(nullptr);
    const auto ids = comm->all_gather(segment.id);
    if (rank == 0) comm->transport().map_segment(1, ids[1]);
    comm->barrier();
    return 0;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

TEST(DepartureTest, ThreadThatEndedIsNamedThoughItsGroupLivesOutside) {
  std::optional<Communicator> outside;
  bool is_named = false;
  in_process(2,
             [&](Communicator& comm) {
               Communicator group = comm.duplicate();
               if (comm.rank() == 1) {
                 outside = group;
               } else {
                 is_named = learns_that_rank_1_is_gone(group);
               }
             },
             {.timeout = 30s});
  EXPECT_TRUE(is_named);
}

}  // namespace
}  // namespace flexep
