// SPDX-License-Identifier: Apache-2.0
//
// What remains usable after an operation has failed, and what does not.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "flexep/flexep.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;

constexpr int kNumExperts = 4;

DispatchArgs args_for(int num_tokens, bool do_expand = false) {
  const Tensor topk_idx = Tensor::empty({num_tokens, 1}, DType::kInt64);
  for (int token = 0; token < num_tokens; ++token) topk_idx.data<std::int64_t>()[token] = token % kNumExperts;
  return {.x = Tensor::zeros({num_tokens, 64}, DType::kFloat32),
          .topk_idx = topk_idx,
          .num_experts = kNumExperts,
          .do_expand = do_expand};
}

Event broken_event() {
  std::promise<void> broken;
  broken.set_exception(std::make_exception_ptr(Error("the producer failed")));
  return Event(broken.get_future().share());
}

TEST(FailureTest, HandleOfADispatchThatFailedIsRefused) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    DispatchArgs args = args_for(64, true);
    args.async_with_compute_stream = true;
    args.allocate_on_comm_stream = true;
    if (comm.rank() == 1) args.previous_event_before_epilogue = broken_event();
    const auto recv = buffer.dispatch(args);
    EXPECT_THROW(recv.event.wait(), Error);
    const Tensor y = Tensor::zeros(recv.x.shape(), DType::kFloat32);
    EXPECT_THROW(buffer.combine({.x = y, .handle = recv.handle}), Error);
    EXPECT_THROW(buffer.dispatch({.x = args.x, .handle = recv.handle}), Error);
    const auto good = buffer.dispatch(args_for(64, true));
    buffer.combine({.x = good.x, .handle = good.handle});
  });
}

std::atomic<bool> wants_interruption = false;

TEST(FailureTest, InterruptedWaitEndsTheGroup) {
  wants_interruption = false;
  set_interruption_check([] { return wants_interruption.load(); });
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    if (comm.rank() == 1) {
      std::this_thread::sleep_for(50ms);
      wants_interruption = true;  // rank 0 waits, and is asked
      while (wants_interruption) std::this_thread::sleep_for(1ms);
    } else {
      EXPECT_THROW(buffer.barrier(), TransportError);
      wants_interruption = false;
    }
    EXPECT_THROW(buffer.barrier(), TransportError);
  });
  set_interruption_check(nullptr);
}

TEST(FailureTest, EventIsWaitedForNoLongerThanAsked) {
  std::promise<void> promise;
  const Event event(promise.get_future().share());
  EXPECT_FALSE(event.wait_for(1ms));
  promise.set_value();
  EXPECT_TRUE(event.wait_for(1ms));
  EXPECT_THROW(Event().wait_for(1ms), InvalidArgument);
  EXPECT_THROW(broken_event().wait_for(1ms), Error);
}

TEST(FailureTest, ExceptionsOfUnknownTypeReachTheOtherRanksToo) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    DispatchArgs args = args_for(8);
    args.allocate_on_comm_stream = true;
    if (comm.rank() == 0) {
      std::promise<void> broken;
      broken.set_exception(std::make_exception_ptr(42));
      args.previous_event = Event(broken.get_future().share());
      EXPECT_THROW(buffer.dispatch(args), int);
    } else {
      EXPECT_THROW(buffer.dispatch(args), PeerError);
    }
    buffer.dispatch(args_for(8));
  });
}

TEST(FailureTest, StatisticsCountOnlyDispatchesThatCompleted) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Tensor stats = Tensor::zeros({kNumExperts / 2}, DType::kInt32);
    DispatchArgs args = args_for(8);
    args.cumulative_local_expert_recv_stats = stats;
    args.allocate_on_comm_stream = true;
    if (comm.rank() == 1) args.previous_event_before_epilogue = broken_event();
    EXPECT_THROW(buffer.dispatch(args), Error);
    EXPECT_EQ(stats.values<std::int32_t>()[0], 0);
    args.previous_event_before_epilogue = {};
    buffer.dispatch(args);
    EXPECT_EQ(stats.values<std::int32_t>()[0], 4);
  });
}

TEST(FailureTest, MemoryOfABrokenGroupIsNotHandedOutAgain) {
  std::promise<void> timed_out;
  in_process(2,
             [&](Communicator& comm) {
               ElasticBuffer buffer(comm);
               buffer.dispatch(args_for(1000));
               if (comm.rank() == 1) {
                 timed_out.get_future().wait();
                 return;
               }
               EXPECT_THROW(buffer.dispatch(args_for(1000)), TimeoutError);
               // Rank 1 may wake up and store into what was announced to it.
               EXPECT_THROW(buffer.empty({1000, 64}, DType::kFloat32), TransportError);
               timed_out.set_value();
             },
             {.timeout = 8s});
}

TEST(FailureTest, TensorsThatOutliveABufferDoNotKeepItsRankInTheGroup) {
  std::atomic<bool> was_told_soon{false};
  in_process(2,
             [&](Communicator& comm) {
               Tensor kept;
               {
                 ElasticBuffer buffer(comm);
                 kept = buffer.dispatch(args_for(16)).x;
                 if (comm.rank() == 1) {
                   const auto begin = std::chrono::steady_clock::now();
                   EXPECT_THROW(buffer.dispatch(args_for(16)), TransportError);
                   was_told_soon = std::chrono::steady_clock::now() - begin < 5s;
                 }
               }
               std::memset(kept.data(), 1, kept.num_bytes());
               comm.barrier();
             },
             {.timeout = 60s});
  EXPECT_TRUE(was_told_soon);
}

TEST(FailureTest, RepeatedRowsAreSentAsTheyAre) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    DispatchArgs args = args_for(6);
    const Tensor row = Tensor::empty({1, 64}, DType::kFloat32);
    for (int i = 0; i < 64; ++i) row.data<float>()[i] = static_cast<float>(i + 100 * comm.rank());
    args.x = Tensor::from_memory(row.data(), {6, 64}, {0, 1}, DType::kFloat32, row.owner());
    const auto recv = buffer.dispatch(args);
    const auto out = buffer.combine({.x = recv.x, .handle = recv.handle});
    for (int token = 0; token < 6; ++token) {
      EXPECT_EQ(std::memcmp(out.x.data<float>() + token * 64, row.data(), row.num_bytes()), 0);
    }
  });
}

TEST(FailureTest, LimitOfTheArenaCountsWhatIsUsedAndNothingElse) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.max_arena_bytes = 32 << 20});
    const auto rows_of = [&](int num_rows) {
      DispatchArgs args = args_for(num_rows);
      args.x = Tensor::zeros({num_rows, 4096}, DType::kFloat32);
      return args;
    };
    buffer.dispatch(rows_of(512));
    buffer.dispatch(rows_of(1536));  // 24 MiB: fits once the chunk of the first has gone
    EXPECT_THROW(buffer.dispatch(rows_of(4096)), OutOfMemory);
    buffer.dispatch(rows_of(64));
  });
}

TEST(FailureTest, TypesOfDifferentSizesAreAMismatch) {
  in_process(2, [](Communicator& comm) {
    if (comm.rank() == 0) {
      EXPECT_THROW(comm.all_gather(std::int32_t{1}), CollectiveMismatch);
      std::vector<float> values(3);
      EXPECT_THROW(comm.all_reduce_sum(values), CollectiveMismatch);
    } else {
      EXPECT_THROW(comm.all_gather(std::int64_t{1}), CollectiveMismatch);
      std::vector<double> values(3);
      EXPECT_THROW(comm.all_reduce_sum(values), CollectiveMismatch);
    }
    comm.barrier();
  });
}

}  // namespace
}  // namespace flexep
