// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <thread>

#include "flexep/flexep.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;

constexpr int kNumRanks = 3;
constexpr int kNumExperts = 6;
constexpr int kHidden = 64;

struct Batch {
  Tensor x;
  Tensor topk_idx;
};

Batch make_batch(int rank, int num_tokens, int salt = 0) {
  Batch batch{Tensor::empty({num_tokens, kHidden}, DType::kFloat32),
              Tensor::empty({num_tokens, 2}, DType::kInt64)};
  for (int token = 0; token < num_tokens; ++token) {
    for (int i = 0; i < kHidden; ++i) {
      batch.x.data<float>()[token * kHidden + i] = static_cast<float>(rank * 1000 + token + i + salt);
    }
    batch.topk_idx.data<std::int64_t>()[2 * token] = (token + rank) % kNumExperts;
    batch.topk_idx.data<std::int64_t>()[2 * token + 1] = (token + rank + 3) % kNumExperts;
  }
  return batch;
}

DispatchArgs args_of(const Batch& batch) {
  return {.x = batch.x, .topk_idx = batch.topk_idx, .num_experts = kNumExperts};
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() &&
         (a.num_bytes() == 0 || std::memcmp(a.data(), b.data(), a.num_bytes()) == 0);
}

// Each token goes to two experts, so that the round trip doubles it.
bool is_doubled(const Tensor& out, const Batch& batch) {
  for (std::size_t i = 0; i < batch.x.values<float>().size(); ++i) {
    if (out.values<float>()[i] != 2 * batch.x.values<float>()[i]) return false;
  }
  return true;
}

TEST(AsyncTest, AsynchronousOperationsGiveTheSameBits) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    for (int round = 0; round < 20; ++round) {
      const Batch batch = make_batch(comm.rank(), 17 * round, round);
      DispatchArgs args = args_of(batch);
      args.do_expand = round % 2 == 0;
      const auto expected = buffer.dispatch(args);
      args.async_with_compute_stream = true;
      const auto recv = buffer.dispatch(args);
      ASSERT_TRUE(recv.event);
      recv.event.wait();
      EXPECT_TRUE(recv.event.is_done());
      EXPECT_TRUE(same_bits(recv.x, expected.x));
      const auto out =
          buffer.combine({.x = recv.x, .handle = recv.handle, .async_with_compute_stream = true});
      out.event.wait();
      EXPECT_TRUE(is_doubled(out.x, batch));
    }
  });
}

TEST(AsyncTest, SynchronousOperationsFollowWhatIsInFlight) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Batch batch = make_batch(comm.rank(), 200);
    DispatchArgs args = args_of(batch);
    args.async_with_compute_stream = true;
    const auto first = buffer.dispatch(args);
    const auto second = buffer.dispatch(args_of(batch));
    EXPECT_TRUE(first.event.is_done());
    EXPECT_TRUE(same_bits(first.x, second.x));
  });
}

TEST(AsyncTest, CombineReturnsBeforeOtherRanksCome) {
  std::atomic<bool> rank0_has_returned{false};
  in_process(2, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Batch batch = make_batch(comm.rank(), 8);
    const auto recv = buffer.dispatch(args_of(batch));
    while (comm.rank() == 1 && !rank0_has_returned) std::this_thread::yield();
    const auto out = buffer.combine({.x = recv.x, .handle = recv.handle, .async_with_compute_stream = true});
    if (comm.rank() == 0) {
      EXPECT_FALSE(out.event.is_done());
      rank0_has_returned = true;
    }
    out.event.wait();
    EXPECT_TRUE(is_doubled(out.x, batch));
  });
}

TEST(AsyncTest, TwoBuffersHaveOperationsInFlightAtOnce) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer a(comm);
    ElasticBuffer b(comm);
    for (int round = 0; round < 20; ++round) {
      const Batch batch_a = make_batch(comm.rank(), 100 + round);
      const Batch batch_b = make_batch(comm.rank(), 50 + round, 7);
      DispatchArgs args_a = args_of(batch_a);
      DispatchArgs args_b = args_of(batch_b);
      args_a.async_with_compute_stream = args_b.async_with_compute_stream = true;
      const auto recv_a = a.dispatch(args_a);
      const auto recv_b = b.dispatch(args_b);
      const auto combine_after = [](ElasticBuffer& buffer, const DispatchResult& recv) {
        return buffer.combine({.x = recv.x,
                               .handle = recv.handle,
                               .async_with_compute_stream = true,
                               .previous_event = recv.event,
                               .allocate_on_comm_stream = true});
      };
      const auto out_b = combine_after(b, recv_b);
      const auto out_a = combine_after(a, recv_a);
      out_a.event.wait();
      out_b.event.wait();
      EXPECT_TRUE(is_doubled(out_a.x, batch_a));
      EXPECT_TRUE(is_doubled(out_b.x, batch_b));
    }
  });
}

TEST(AsyncTest, WorkWaitsForItsEvents) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Batch batch = make_batch(comm.rank(), 32);
    const Tensor expected = buffer.dispatch(args_of(batch)).x.clone();
    for (const bool before_epilogue : {false, true}) {
      const Batch late = {Tensor::zeros(batch.x.shape(), DType::kFloat32), batch.topk_idx};
      std::promise<void> is_written;
      DispatchArgs args = args_of(late);
      args.async_with_compute_stream = true;
      args.allocate_on_comm_stream = true;
      const Event event(is_written.get_future().share());
      (before_epilogue ? args.previous_event_before_epilogue : args.previous_event) = event;
      std::thread writer([&] {
        std::this_thread::sleep_for(20ms);
        std::memcpy(late.x.data(), batch.x.data(), batch.x.num_bytes());
        is_written.set_value();
      });
      const auto recv = buffer.dispatch(args);
      EXPECT_TRUE(!before_epilogue || !recv.event.is_done());
      recv.event.wait();
      EXPECT_TRUE(same_bits(recv.x, expected));
      writer.join();
    }
  });
}

TEST(AsyncTest, FailedEventIsAnErrorOnAllRanksAndTheBufferStaysUsable) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Batch batch = make_batch(comm.rank(), 5);
    for (const bool before_epilogue : {false, true}) {
      DispatchArgs args = args_of(batch);
      args.allocate_on_comm_stream = true;
      std::promise<void> broken;
      broken.set_exception(std::make_exception_ptr(Error("the producer of x failed")));
      if (comm.rank() == 1) {
        (before_epilogue ? args.previous_event_before_epilogue : args.previous_event) =
            Event(broken.get_future().share());
      }
      try {
        buffer.dispatch(args);
        ADD_FAILURE() << "no error";
      } catch (const PeerError& error) {
        EXPECT_NE(comm.rank(), 1);
        EXPECT_EQ(error.rank(), 1);
        EXPECT_NE(std::string(error.what()).find("the producer of x failed"), std::string::npos);
      } catch (const Error& error) {
        EXPECT_EQ(comm.rank(), 1);
        EXPECT_STREQ(error.what(), "the producer of x failed");
      }
      const auto recv = buffer.dispatch(args_of(batch));
      EXPECT_TRUE(is_doubled(buffer.combine({.x = recv.x, .handle = recv.handle}).x, batch));
    }
  });
}

TEST(AsyncTest, MistakesOfAnAsynchronousCallAreThrownByTheCallAndToldToAll) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Batch batch = make_batch(comm.rank(), 5);
    const auto recv = buffer.dispatch(args_of(batch));
    CombineArgs args{.x = recv.x, .handle = recv.handle, .async_with_compute_stream = true};
    if (comm.rank() == 0) {
      args.x = Tensor::zeros({recv.x.size(0) + 1, kHidden}, DType::kFloat32);
      EXPECT_THROW(buffer.combine(args), InvalidArgument);
    } else {
      const auto out = buffer.combine(args);
      EXPECT_THROW(out.event.wait(), PeerError);
    }
    EXPECT_TRUE(is_doubled(buffer.combine({.x = recv.x, .handle = recv.handle}).x, batch));
  });
}

TEST(AsyncTest, IllegalCombinationsSayWhy) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    DispatchArgs args = args_of(make_batch(comm.rank(), 5));
    args.previous_event = ElasticBuffer::capture();
    try {
      buffer.dispatch(args);
      ADD_FAILURE() << "no error";
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.argument(), "previous_event");
    }
    EXPECT_THROW(Event().wait(), InvalidArgument);
  });
}

TEST(AsyncTest, BufferMayGoWhileItsOperationsAreInFlight) {
  in_process(kNumRanks, [](Communicator& comm) {
    const Batch batch = make_batch(comm.rank(), 300);
    DispatchResult recv;
    CombineResult out;
    {
      ElasticBuffer buffer(comm);
      recv = buffer.dispatch(args_of(batch));
      out = buffer.combine({.x = recv.x, .handle = recv.handle, .async_with_compute_stream = true});
    }
    EXPECT_TRUE(out.event.is_done());
    out.event.wait();
    EXPECT_TRUE(is_doubled(out.x, batch));
  });
}

}  // namespace
}  // namespace flexep
