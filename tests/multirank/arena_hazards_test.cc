// SPDX-License-Identifier: Apache-2.0
//
// Memory that another rank still reads or writes is not handed out, overwritten or given back. The last of
// these rules, about a rank that was given up, is FailureTest.MemoryOfABrokenGroupIsNotHandedOutAgain.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "flexep/flexep.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;

constexpr int kNumTokens = 64;
constexpr int kHidden = 64;
constexpr int kNumRanks = 2;

// Each token to both ranks, filled with a value.
DispatchArgs args_with(float value) {
  const Tensor x = Tensor::empty({kNumTokens, kHidden}, DType::kFloat32);
  std::ranges::fill(x.values<float>(), value);
  const Tensor topk_idx = Tensor::empty({kNumTokens, kNumRanks}, DType::kInt64);
  for (int i = 0; i < kNumTokens * kNumRanks; ++i) topk_idx.data<std::int64_t>()[i] = i % kNumRanks;
  return {.x = x, .topk_idx = topk_idx, .num_experts = kNumRanks, .allocate_on_comm_stream = true};
}

bool is_all(const Tensor& tensor, float value) {
  return std::ranges::all_of(tensor.values<float>(), [&](float element) { return element == value; });
}

/// Comes true a while after it was made: the rank that waits for it is slow.
class Late {
 public:
  Event event() { return Event(moment_); }
  ~Late() { thread_.join(); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> moment_ = promise_.get_future().share();
  std::thread thread_{[this] {
    std::this_thread::sleep_for(60ms);
    promise_.set_value();
  }};
};

TEST(ArenaHazardsTest, CombineReturnsOnlyWhenEveryRankHasReadItsRows) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const auto recv = buffer.dispatch(args_with(3));
    CombineArgs args{.x = recv.x, .handle = recv.handle, .allocate_on_comm_stream = true};
    if (comm.rank() == 1) {
      Late late;
      args.previous_event_before_epilogue = late.event();
      EXPECT_TRUE(is_all(buffer.combine(args).x, 6));
    } else {
      buffer.combine(args);
      std::memset(recv.x.data(), 0xFF, recv.x.num_bytes());
    }
    comm.barrier();
  });
}

// Takes memory of this shape, what has become free first, and spoils it; not before the operation in flight
// has come to where it waits for the late rank.
std::vector<Tensor> spoil_free_memory(ElasticBuffer& buffer, const Shape& shape) {
  std::this_thread::sleep_for(15ms);
  std::vector<Tensor> taken;
  for (int i = 0; i < 4; ++i) {
    taken.push_back(buffer.empty(shape, DType::kFloat32));
    std::ranges::fill(taken.back().values<float>(), 7.0F);
  }
  return taken;
}

TEST(ArenaHazardsTest, RowsDroppedWhileACombineReadsThemAreNotHandedOut) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    auto recv = buffer.dispatch(args_with(3));
    CombineArgs args{.x = recv.x,
                     .handle = recv.handle,
                     .async_with_compute_stream = true,
                     .allocate_on_comm_stream = true};
    Late late;
    if (comm.rank() == 1) args.previous_event_before_epilogue = late.event();
    const auto out = buffer.combine(args);
    const Shape shape = recv.x.shape();
    recv.x = {};
    args.x = {};
    const auto taken = spoil_free_memory(buffer, shape);
    out.event.wait();
    EXPECT_TRUE(is_all(out.x, 6));
    comm.barrier();
  });
}

TEST(ArenaHazardsTest, OutputsDroppedBeforeTheirRowsComeAreNotHandedOut) {
  for (const bool do_cpu_sync : {true, false}) {
    in_process(kNumRanks, [&](Communicator& comm) {
      ElasticBuffer buffer(comm, {.num_max_tokens_per_rank = kNumTokens});
      DispatchArgs args = args_with(3);
      args.do_cpu_sync = do_cpu_sync;
      args.async_with_compute_stream = true;
      Late late;
      if (comm.rank() == 1) args.previous_event_before_epilogue = late.event();
      const Event event = buffer.dispatch(args).event;
      const auto taken = spoil_free_memory(buffer, {kNumRanks * kNumTokens, kHidden});
      event.wait();
      for (const Tensor& tensor : taken) EXPECT_TRUE(is_all(tensor, 7));
      comm.barrier();
    });
  }
}

TEST(ArenaHazardsTest, CachedDispatchLeavesEarlierOutputsAlone) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const auto first = buffer.dispatch(args_with(3));
    const auto second = buffer.dispatch({.x = args_with(4).x, .handle = first.handle});
    EXPECT_TRUE(is_all(first.x, 3));
    EXPECT_TRUE(is_all(second.x, 4));
  });
}

TEST(ArenaHazardsTest, CachedDispatchWritesToARankOnlyOnceItHasCome) {
  std::atomic<bool> rank0_is_going{false};
  in_process(kNumRanks, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    auto first = buffer.dispatch(args_with(3));
    if (comm.rank() == 1) {
      first.x = {};
      const auto taken = spoil_free_memory(buffer, {kNumRanks * kNumTokens, kHidden});
      while (!rank0_is_going) std::this_thread::yield();
      std::this_thread::sleep_for(40ms);
      for (const Tensor& tensor : taken) EXPECT_TRUE(is_all(tensor, 7));
    }
    rank0_is_going = comm.rank() == 0 || rank0_is_going;
    EXPECT_TRUE(is_all(buffer.dispatch({.x = args_with(4).x, .handle = first.handle}).x, 4));
  });
}

TEST(ArenaHazardsTest, EventThatIsKeptDoesNotKeepStagedMemory) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    auto recv = buffer.dispatch(args_with(3));
    auto out =
        buffer.combine({.x = recv.x.clone(), .handle = recv.handle, .async_with_compute_stream = true});
    out.event.wait();
    recv = {};
    out.x = {};
    buffer.trim();
    EXPECT_EQ(buffer.arena_bytes(), 0);
  });
}

}  // namespace
}  // namespace flexep
