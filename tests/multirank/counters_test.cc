// SPDX-License-Identifier: Apache-2.0
#include "flexep/counters.h"

#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <future>
#include <thread>

#include "flexep/flexep.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;
using testing::tensor_of;

constexpr int kHidden = 64;
constexpr std::int64_t kRowBytes = kHidden * sizeof(float);

// Two ranks of two experts each. Token 0 goes twice to rank 0, token 1 once to each rank.
DispatchArgs two_tokens(bool do_expand = false) {
  return {.x = Tensor::zeros({2, kHidden}, DType::kFloat32),
          .topk_idx = tensor_of<std::int64_t>({2, 2}, {0, 1, 1, 2}),
          .num_experts = 4,
          .do_expand = do_expand};
}

void expect_rows(const OperationCounters& counters, std::int64_t num_local, std::int64_t num_scaleup,
                 std::int64_t num_deduplicated) {
  EXPECT_EQ(counters.num_operations, 1);
  EXPECT_EQ(counters.num_rows_local, num_local);
  EXPECT_EQ(counters.bytes_local, num_local * kRowBytes);
  EXPECT_EQ(counters.num_rows_scaleup, num_scaleup);
  EXPECT_EQ(counters.bytes_scaleup, num_scaleup * kRowBytes);
  EXPECT_EQ(counters.num_rows_scaleout, 0);
  EXPECT_EQ(counters.bytes_scaleout, 0);
  EXPECT_EQ(counters.num_rows_deduplicated, num_deduplicated);
  EXPECT_EQ(counters.link_bytes, num_scaleup * kRowBytes);
}

TEST(CountersTest, CompactRowsCrossOnceForEachTokenAndRank) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const auto recv = buffer.dispatch(two_tokens());
    buffer.combine({.x = recv.x, .handle = recv.handle});
    const BufferCounters counters = buffer.counters();
    const std::int64_t to_rank_1 = 1;
    const std::int64_t to_rank_0 = 2;
    for (const auto* moved : {&counters.last_dispatch, &counters.last_combine}) {
      if (comm.rank() == 0) {
        expect_rows(*moved, to_rank_0, to_rank_1, 0);
      } else {
        expect_rows(*moved, to_rank_1, to_rank_0, 1);
      }
      EXPECT_EQ(moved->staging_bytes, 0);
    }
    EXPECT_EQ(counters.dispatch.bytes_read, 2 * kRowBytes);
    EXPECT_EQ(counters.dispatch.bytes_written, 3 * kRowBytes);
    EXPECT_EQ(counters.combine.bytes_read, 3 * kRowBytes);
    EXPECT_EQ(counters.combine.bytes_written, 2 * kRowBytes);
  });
}

TEST(CountersTest, ExpandedRowsCrossForEachPairUntilTheirOwnerSumsThem) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const auto recv = buffer.dispatch(two_tokens(true));
    buffer.combine({.x = recv.x, .handle = recv.handle});
    BufferCounters counters = buffer.counters();
    const bool is_rank_0 = comm.rank() == 0;
    expect_rows(counters.last_dispatch, is_rank_0 ? 3 : 1, is_rank_0 ? 1 : 3, 0);
    expect_rows(counters.last_combine, is_rank_0 ? 3 : 1, is_rank_0 ? 1 : 3, 0);
    // Memory that others cannot read is staged, and on the way each token's rows become one.
    buffer.combine({.x = recv.x.clone(), .handle = recv.handle});
    counters = buffer.counters();
    expect_rows(counters.last_combine, is_rank_0 ? 2 : 1, is_rank_0 ? 1 : 2, is_rank_0 ? 0 : 1);
    EXPECT_EQ(counters.last_combine.staging_bytes, recv.handle.num_recv_tokens() * kRowBytes);
  });
}

TEST(CountersTest, TotalsAndLoadAddUpAndTheLastOperationStandsAlone) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    for (int i = 0; i < 3; ++i) buffer.dispatch(two_tokens());
    const BufferCounters counters = buffer.counters();
    EXPECT_EQ(counters.dispatch.num_operations, 3);
    EXPECT_EQ(counters.last_dispatch.num_operations, 1);
    EXPECT_EQ(counters.combine.num_operations, 0);
    EXPECT_EQ(counters.dispatch.num_rows_scaleup, 3 * counters.last_dispatch.num_rows_scaleup);
    // From two ranks, three times.
    const std::vector<std::int64_t> load =
        comm.rank() == 0 ? std::vector<std::int64_t>{6, 12} : std::vector<std::int64_t>{6, 0};
    EXPECT_EQ(counters.expert_load, load);
  });
}

TEST(CountersTest, OperationsThatFailAreNotCounted) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    DispatchArgs args = two_tokens();
    if (comm.rank() == 1) args.num_experts = 3;
    EXPECT_THROW(buffer.dispatch(args), Error);
    EXPECT_EQ(buffer.counters().dispatch.num_operations, 0);
    buffer.dispatch(two_tokens());
    EXPECT_EQ(buffer.counters().dispatch.num_operations, 1);
    EXPECT_EQ(buffer.counters().dispatch.num_rows_local, comm.rank() == 0 ? 2 : 1);
  });
}

/// Happens on whatever thread waits for it.
Event event_that(std::function<void()> act) {
  return Event(std::async(std::launch::deferred, std::move(act)).share());
}

TEST(CountersTest, SlowRankOnlyDelaysAndShowsInTheWaitsOfTheOthers) {
  constexpr int kSlow = 1;
  std::atomic<int> num_ready{0};
  in_process(3, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const int num_ranks = comm.num_ranks();
    DispatchArgs args;
    args.x = Tensor::empty({3, kHidden}, DType::kFloat32);
    for (float& value : args.x.values<float>()) value = static_cast<float>(1 + comm.rank());
    args.topk_idx = tensor_of<std::int64_t>({3, 1}, {0, 1, 2});
    args.num_experts = 3;
    // Between exchange and rows.
    args.previous_event_before_epilogue = event_that([&] {
      if (comm.rank() != kSlow) {
        ++num_ready;
        return;
      }
      while (num_ready < num_ranks - 1) std::this_thread::yield();
      std::this_thread::sleep_for(300ms);
    });
    args.allocate_on_comm_stream = true;
    const auto recv = buffer.dispatch(args);
    for (int row = 0; row < 3; ++row)
      EXPECT_EQ(recv.x.data<float>()[row * kHidden], static_cast<float>(1 + row));
    const auto waits = buffer.counters().last_dispatch.wait_ns;
    ASSERT_EQ(static_cast<int>(waits.size()), num_ranks);
    EXPECT_EQ(waits[static_cast<std::size_t>(comm.rank())], 0);
    if (comm.rank() == kSlow) return;
    EXPECT_GT(waits[kSlow], std::chrono::nanoseconds(10ms).count());
    EXPECT_EQ(buffer.counters().dispatch.wait_ns, waits);
  });
}

TEST(CountersTest, CanBeReadWhileOperationsRun) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    std::atomic<bool> is_done{false};
    std::thread reader([&] {
      std::int64_t last = 0;
      while (!is_done) {
        const std::int64_t num_dispatches = buffer.counters().dispatch.num_operations;
        EXPECT_LE(last, num_dispatches);
        last = num_dispatches;
      }
    });
    DispatchArgs args = two_tokens();
    args.async_with_compute_stream = true;
    for (int i = 0; i < 100; ++i) buffer.dispatch(args).event.wait();
    is_done = true;
    reader.join();
    EXPECT_EQ(buffer.counters().dispatch.num_operations, 100);
  });
}

}  // namespace
}  // namespace flexep
