// SPDX-License-Identifier: Apache-2.0
//
// What it costs the other ranks when one makes memory.
#include <gtest/gtest.h>

#include <chrono>
#include <filesystem>
#include <iterator>
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

// Usually.
constexpr int kMoreThanAQueueHolds = 400;

std::ptrdiff_t num_open_files() {
  return std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {});
}

// Naps until every wait has looked at the connections: what a gather that finds everybody there need not do.
void let_ranks_receive(Communicator& comm) {
  for (int sleeper = 0; sleeper < comm.num_ranks(); ++sleeper) {
    if (comm.rank() == sleeper) std::this_thread::sleep_for(100ms);
    comm.barrier();
  }
}

TEST(SegmentsTest, NothingIsKeptOfMemoryThatWasNeverMapped) {
  Processes processes(job_id("retracted"), 2, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    const auto num_before = num_open_files();
    comm.barrier();  // a rank that is ahead must not have told this one of its memory yet
    for (int i = 0; rank == 0 && i < 50; ++i) comm.transport().create_segment(4096);
    let_ranks_receive(comm);
    return num_open_files() == num_before ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

TEST(SegmentsTest, MemoryOfAGroupIsUnknownOutsideIt) {
  Processes processes(job_id("outside"), 3, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    Communicator group = comm.split(rank == 2, 0);
    let_ranks_receive(comm);
    const auto num_before = num_open_files();
    std::vector<Segment> held;
    for (int i = 0; rank == 0 && i < 50; ++i) held.push_back(group.transport().create_segment(4096));
    let_ranks_receive(comm);
    return rank != 2 || num_open_files() == num_before ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 3), 0);
}

TEST(SegmentsTest, RanksThatAnnounceAtTheSameTimeOrWaitDoNotBlockEachOther) {
  Processes processes(job_id("queues"), 3, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    const auto begin = std::chrono::steady_clock::now();
    std::vector<Segment> held;
    for (int i = 0; rank != 2 && i < kMoreThanAQueueHolds; ++i) {
      held.push_back(comm.transport().create_segment(4096));
    }
    comm.barrier();
    return std::chrono::steady_clock::now() - begin < 40s ? 0 : 1;
  });
  EXPECT_EQ(num_failed(processes, 3), 0);
}

TEST(SegmentsTest, RankThatDoesNotReceiveIsNamedAfterTheTimeout) {
  Processes processes(job_id("full"), 2, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 8s});
    if (rank == 1) {
      std::this_thread::sleep_for(60s);  // until the test ends it
      return 1;
    }
    try {
      // How much a queue holds is the system's business, and differs from run to run.
      for (int i = 0; i < 100 * kMoreThanAQueueHolds; ++i) comm.transport().create_segment(4096);
    } catch (const TransportError& error) {
      return error.failed_ranks() == std::vector<int>{1} ? 0 : 1;
    }
    return 1;
  });
  EXPECT_EQ(processes.exit_code_of(0), 0);
}

}  // namespace
}  // namespace flexep
