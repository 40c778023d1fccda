// SPDX-License-Identifier: Apache-2.0
//
// What happens when the system refuses, or interrupts.
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/time.h>

#include <chrono>
#include <fstream>

#include "flexep/flexep.h"
#include "job.h"
#include "transport/transport.h"

namespace flexep {
namespace {

using test::job_id;
using test::num_failed;
using test::Processes;
using namespace std::chrono_literals;

void set_limit(decltype(RLIMIT_NOFILE) resource, rlim_t soft) {
  rlimit limit{};
  getrlimit(resource, &limit);
  limit.rlim_cur = soft;
  setrlimit(resource, &limit);
}

// Lets this process open `num_files` more.
void limit_open_files(int num_files) {
  const int lowest_free = dup(STDIN_FILENO);
  close(lowest_free);
  set_limit(RLIMIT_NOFILE, static_cast<rlim_t>(lowest_free + num_files));
}

// Rank 0 may open so many files while the group is split: all ranks must hear of it, and the next try work.
int split_under_limit(int num_files) {
  constexpr int kNumRanks = 3;
  Processes processes(job_id("limit"), kNumRanks, [=](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 30s});
    rlimit before{};
    getrlimit(RLIMIT_NOFILE, &before);
    if (rank == 0) limit_open_files(num_files);
    comm.barrier();
    // Its descriptor is the first that reaches rank 0.
    Segment held;
    if (rank == 1) held = comm.transport().create_segment(4096);
    std::string text;
    try {
      comm.duplicate();
    } catch (const TransportError& error) {
      text = error.what();
    }
    set_limit(RLIMIT_NOFILE, before.rlim_cur);
    EXPECT_EQ(text.starts_with("rank 0 failed in split: cannot"), rank != 0) << text;
    EXPECT_NE(text.find("open files"), std::string::npos) << text;
    comm.barrier();
    comm.duplicate().barrier();
    return testing::Test::HasFailure() ? 1 : 0;
  });
  return num_failed(processes, kNumRanks);
}

TEST(ScarcityTest, RankThatCannotMakeMemoryFailsTheSplitOfAll) {
  EXPECT_EQ(split_under_limit(0), 0);
}

TEST(ScarcityTest, RankThatCannotMapMemoryFailsTheSplitOfAll) {
  EXPECT_EQ(split_under_limit(1), 0);
}

TEST(ScarcityTest, InProcessSaysHowManyThreadsCouldStart) {
  constexpr std::size_t kStackBytes = std::size_t{1} << 30;
  Processes processes(job_id("threads"), 1, [](int) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, kStackBytes);
    pthread_setattr_default_np(&attributes);
    std::size_t num_pages = 0;
    std::ifstream("/proc/self/statm") >> num_pages;
    set_limit(RLIMIT_AS, num_pages * static_cast<rlim_t>(getpagesize()) + 5 * kStackBytes / 2);
    try {
      in_process(8, [](Communicator& comm) { comm.barrier(); }, {.timeout = 30s});
    } catch (const TransportError& error) {
      return std::string_view(error.what()).starts_with("only 2 of 8 ranks could start: ") ? 0 : 1;
    }
    return 1;
  });
  EXPECT_EQ(num_failed(processes, 1), 0);
}

TEST(ScarcityTest, SignalsDoNotKeepARankFromItsMemory) {
  Processes processes(job_id("signals"), 2, [](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    struct sigaction ignore {};
    ignore.sa_handler = [](int) {};
    ignore.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &ignore, nullptr);
    const itimerval often{.it_interval = {0, 2000}, .it_value = {0, 2000}};
    if (rank == 0) {
      setitimer(ITIMER_REAL, &often, nullptr);
      comm.transport().create_segment(std::size_t{256} << 20);
      const itimerval never{};
      setitimer(ITIMER_REAL, &never, nullptr);
    }
    comm.barrier();
    return 0;
  });
  EXPECT_EQ(num_failed(processes, 2), 0);
}

}  // namespace
}  // namespace flexep
