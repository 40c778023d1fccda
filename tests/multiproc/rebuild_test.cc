// SPDX-License-Identifier: Apache-2.0
//
// Processes that are stopped, woken up and killed, and the group that the others make.
#include <gtest/gtest.h>
#include <poll.h>

#include <array>
#include <chrono>
#include <cstring>
#include <future>

#include "flexep/flexep.h"
#include "job.h"

namespace flexep {
namespace {

using test::job_id;
using test::num_failed;
using test::Processes;
using namespace std::chrono_literals;

constexpr int kNumExperts = 12;
constexpr int kNumTokens = 512;
constexpr int kHidden = 512;

DispatchArgs args_of(int rank) {
  const Tensor x = Tensor::empty({kNumTokens, kHidden}, DType::kFloat32);
  const Tensor topk_idx = Tensor::empty({kNumTokens, 2}, DType::kInt64);
  for (std::int64_t i = 0; i < x.num_elements(); ++i) x.data<float>()[i] = static_cast<float>(i + rank);
  for (int i = 0; i < 2 * kNumTokens; ++i) topk_idx.data<std::int64_t>()[i] = (i + rank) % kNumExperts;
  return {.x = x, .topk_idx = topk_idx, .num_experts = kNumExperts};
}

/// A tensor and what it must go on to hold.
struct Kept {
  explicit Kept(const Tensor& live) : tensor(live), copy(live.clone()) {}
  bool is_unchanged() const { return std::memcmp(tensor.data(), copy.data(), copy.num_bytes()) == 0; }
  Tensor tensor;
  Tensor copy;
};

/// Happens on whatever thread waits for it.
Event event_that(std::function<void()> act) {
  return Event(std::async(std::launch::deferred, std::move(act)).share());
}

/// A rank that is stopped after the counts were exchanged and before it stores its rows.
void stop_in_dispatch(const Communicator& comm, ElasticBuffer& buffer) {
  DispatchArgs args = args_of(comm.rank());
  args.x = Tensor::zeros(args.x.shape(), DType::kFloat32);
  args.previous_event_before_epilogue = event_that([] { raise(SIGSTOP); });
  // Woken up, it stores its rows, and learns that the others have given it up.
  EXPECT_THROW(buffer.dispatch(args), TimeoutError);
}

void expect_timeout_of(int rank, ElasticBuffer& buffer, const DispatchArgs& args) {
  try {
    buffer.dispatch(args);
    ADD_FAILURE() << "the dispatch completed";
  } catch (const TimeoutError& error) {
    EXPECT_EQ(error.missing_ranks(), std::vector<int>{rank});
    EXPECT_EQ(error.operation(), "dispatch: rows");
    EXPECT_EQ(error.sequence_number(), 3u);
  }
}

// Again and again: a signal that comes before the process has stopped does nothing.
void wake_until_it_reports(pid_t pid, int report) {
  pollfd entry{.fd = report, .events = POLLIN, .revents = 0};
  do {
    kill(pid, SIGCONT);
  } while (poll(&entry, 1, 100) == 0);
}

TEST(ShmRebuildTest, RankThatIsStoppedIsLeftOutAndCorruptsNothingWhenItWakes) {
  constexpr int kStopped = 1;
  std::array<int, 2> report{};
  ASSERT_EQ(pipe(report.data()), 0);
  Processes processes(job_id("rebuild"), 3, [&](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 8s});
    const auto pids = comm.all_gather(getpid());
    ElasticBuffer buffer(comm);
    const DispatchArgs args = args_of(rank);
    std::vector<Kept> kept;
    for (int i = 0; i < 2; ++i) kept.emplace_back(buffer.dispatch(args).x);
    if (rank == kStopped) {
      stop_in_dispatch(comm, buffer);
      EXPECT_THROW(comm.rebuild(), TransportError);
      EXPECT_THROW(comm.barrier(), Error);
      for (const Kept& rows : kept) EXPECT_TRUE(rows.is_unchanged());
      EXPECT_EQ(write(report[1], "!", 1), 1);
      return testing::Test::HasFailure() ? 1 : 0;
    }
    expect_timeout_of(kStopped, buffer, args);
    Communicator group = comm.rebuild();
    EXPECT_EQ(group.all_gather(rank), (std::vector<int>{0, 2}));
    ElasticBuffer rebuilt(group);
    DispatchArgs again = args;
    for (int i = 0; i < 2; ++i) kept.emplace_back(rebuilt.dispatch(again).x);
    if (rank == 0) wake_until_it_reports(pids[kStopped], report[0]);
    group.barrier();
    for (const Kept& rows : kept) EXPECT_TRUE(rows.is_unchanged());
    const auto recv = rebuilt.dispatch(again);
    EXPECT_EQ(std::memcmp(recv.x.data(), kept.back().copy.data(), recv.x.num_bytes()), 0);
    return testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(num_failed(processes, 3), 0);
}

TEST(ShmRebuildTest, RanksThatAreKilledAreLeftOutAtOnce) {
  Processes processes(job_id("killed"), 4, [&](int rank) {
    Communicator comm = Communicator::from_environment({.timeout = 300s});
    ElasticBuffer buffer(comm);
    buffer.dispatch(args_of(rank));
    // Rank 0 too: what the ranks agree over lies in its memory.
    if (rank == 0 || rank == 2) raise(SIGKILL);
    EXPECT_THROW(buffer.dispatch(args_of(rank)), TransportError);
    Communicator group = comm.rebuild();
    EXPECT_EQ(group.all_gather(rank), (std::vector<int>{1, 3}));
    ElasticBuffer rebuilt(group);
    rebuilt.dispatch(args_of(rank));
    return testing::Test::HasFailure() ? 1 : 0;
  });
  EXPECT_EQ(num_failed(processes, 4), 2);
}

}  // namespace
}  // namespace flexep
