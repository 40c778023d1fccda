// SPDX-License-Identifier: Apache-2.0
//
// Ranks that are processes and take turns with the GPUs. Forked from the test, which itself never uses CUDA:
// a process that has used it cannot be forked.
#include "support/processes.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "cuda/small_round_trip.h"
#include "flexep/communicator.h"
#include "flexep/error.h"

namespace flexep {
namespace {

using namespace flexep::testing;
using test::Processes;
using namespace std::chrono_literals;

constexpr int kNumRanks = 3;
constexpr int kDone = 0;
constexpr int kWrong = 1;
constexpr int kNoGpu = 77;

/// What a rank's process makes of its part: kWrong where an expectation failed.
template <typename Body>
int on_gpu(Body body, std::chrono::milliseconds timeout) {
  if (!tool::why_no_cuda_device().empty()) return kNoGpu;
  Communicator comm = Communicator::from_environment({.timeout = timeout});
  use_gpu_of(comm.rank());
  body(comm);
  return ::testing::Test::HasFailure() ? kWrong : kDone;
}

std::string job_id(const std::string& name) {
  return "cuda-" + name + "-" + std::to_string(getpid());
}

TEST(CudaProcessesTest, ARoundTripReachesTheMemoryOfOtherProcesses) {
  Processes processes(job_id("round-trip"), kNumRanks, [](int) {
    return on_gpu(
        [](Communicator& comm) {
          ElasticBuffer buffer(comm, {.device = this_gpu()});
          for (int i = 0; i < 20; ++i) expect_round_trip_works(buffer);
        },
        60s);
  });
  for (int rank = 0; rank < kNumRanks; ++rank) {
    const int code = processes.exit_code_of(rank);
    if (code == kNoGpu) GTEST_SKIP() << "no GPU";
    EXPECT_EQ(code, kDone) << "rank " << rank;
  }
}

/// Waits until the other one is missed, and goes on without it.
void expect_rank_1_is_missed(Communicator& comm) {
  ElasticBuffer buffer(comm, {.device = this_gpu()});
  expect_round_trip_works(buffer);
  std::this_thread::sleep_for(1s);  // rank 1 has ended by now, or ends while it is waited for
  try {
    buffer.dispatch(good_args(comm.rank()));
    ADD_FAILURE() << "rank 1 was not missed";
  } catch (const TimeoutError& error) {
    EXPECT_EQ(error.missing_ranks(), std::vector<int>{1});
  } catch (const TransportError& error) {
    EXPECT_EQ(error.failed_ranks(), std::vector<int>{1});
  }
  Communicator survivors = comm.rebuild();
  EXPECT_EQ(survivors.num_ranks(), kNumRanks - 1);
  ElasticBuffer next(survivors, {.device = this_gpu()});
  expect_round_trip_works(next);
}

TEST(CudaProcessesTest, ARankThatEndsWhileIdleIsNamedAndTheOthersGoOn) {
  Processes processes(job_id("ended"), kNumRanks, [](int rank) {
    return on_gpu(
        [rank](Communicator& comm) {
          if (rank != 1) return expect_rank_1_is_missed(comm);
          ElasticBuffer buffer(comm, {.device = this_gpu()});
          expect_round_trip_works(buffer);
          cudaDeviceSynchronize();
          kill(getpid(), SIGKILL);
        },
        10s);
  });
  const int code_of_rank_1 = processes.exit_code_of(1);
  if (code_of_rank_1 == kNoGpu) GTEST_SKIP() << "no GPU";
  EXPECT_EQ(code_of_rank_1, 128 + SIGKILL);
  for (const int rank : {0, 2}) EXPECT_EQ(processes.exit_code_of(rank), kDone) << "rank " << rank;
}

}  // namespace
}  // namespace flexep
