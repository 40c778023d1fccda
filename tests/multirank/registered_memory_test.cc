// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <string>
#include <thread>

#include "flexep/flexep.h"
#include "support/pages.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;
using testing::page_bytes;
using testing::Pages;

constexpr int kNumRanks = 3;
constexpr int kNumExperts = 6;
constexpr int kHidden = 64;

DispatchArgs args_for(int rank, bool do_expand) {
  constexpr int kNumTokens = 20;
  const Tensor x = Tensor::empty({kNumTokens, kHidden}, DType::kFloat32);
  const Tensor topk_idx = Tensor::empty({kNumTokens, 2}, DType::kInt64);
  for (int i = 0; i < kNumTokens * kHidden; ++i) x.data<float>()[i] = static_cast<float>(rank * 10000 + i);
  for (int token = 0; token < kNumTokens; ++token) {
    topk_idx.data<std::int64_t>()[2 * token] = (token + rank) % kNumExperts;
    topk_idx.data<std::int64_t>()[2 * token + 1] = (token + rank + 1) % kNumExperts;
  }
  return {.x = x,
          .topk_idx = topk_idx,
          .topk_weights = Tensor::zeros({kNumTokens, 2}, DType::kFloat32),
          .num_experts = kNumExperts,
          .do_expand = do_expand};
}

bool same_bits(const Tensor& a, const Tensor& b) {
  return a.shape() == b.shape() && std::memcmp(a.data(), b.data(), a.num_bytes()) == 0;
}

TEST(RegisteredMemoryTest, CombineReadsItInPlaceWithTheSameBits) {
  for (const bool do_expand : {false, true}) {
    for (const bool allow_multiple_reduction : {false, true}) {
      in_process(kNumRanks, [&](Communicator& comm) {
        ElasticBuffer buffer(comm, {.allow_multiple_reduction = allow_multiple_reduction});
        const auto recv = buffer.dispatch(args_for(comm.rank(), do_expand));
        const Pages pages(64);
        const Tensor y = pages.hold(recv.x, 4 * page_bytes() + 16);
        const Tensor weights = pages.hold(recv.topk_weights);
        const auto expected = buffer.combine({.x = y, .handle = recv.handle, .topk_weights = weights});
        const auto staged_before = buffer.counters().combine.staging_bytes;
        EXPECT_GT(staged_before, 0);

        const RegisteredMemory registration = buffer.register_memory(pages.data(), pages.num_bytes());
        const auto out = buffer.combine({.x = y, .handle = recv.handle, .topk_weights = weights});
        EXPECT_EQ(buffer.counters().combine.staging_bytes, staged_before);
        EXPECT_TRUE(same_bits(out.x, expected.x));
        EXPECT_TRUE(same_bits(out.topk_weights, expected.topk_weights));
      });
    }
  }
}

TEST(RegisteredMemoryTest, MemoryThatIsNotAllRegisteredOrNotAnyMoreIsStaged) {
  in_process(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const auto recv = buffer.dispatch(args_for(comm.rank(), false));
    const Pages pages(8);
    const Tensor y = pages.hold(recv.x);
    const auto is_staged = [&] {
      const auto before = buffer.counters().combine.staging_bytes;
      buffer.combine({.x = y, .handle = recv.handle});
      return buffer.counters().combine.staging_bytes > before;
    };
    {
      const RegisteredMemory part = buffer.register_memory(pages.data(), page_bytes());
      EXPECT_TRUE(is_staged());
    }
    {
      const RegisteredMemory all = buffer.register_memory(pages.data(), pages.num_bytes());
      EXPECT_FALSE(is_staged());
    }
    EXPECT_TRUE(is_staged());
  });
}

TEST(RegisteredMemoryTest, UnfitMemoryIsRefusedByName) {
  ElasticBuffer buffer(Communicator::self());
  const Pages pages(4);
  const RegisteredMemory registration =
      buffer.register_memory(pages.data() + 2 * page_bytes(), 2 * page_bytes());
  const auto expect_refused = [&](std::size_t offset, std::size_t num_bytes, const std::string& part) {
    try {
      const auto unexpected = buffer.register_memory(pages.data() + offset, num_bytes);
      ADD_FAILURE() << "no error";
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.argument(), "memory");
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  expect_refused(16, page_bytes(), "whole pages");
  expect_refused(0, page_bytes() - 1, "whole pages");
  expect_refused(0, 0, "whole pages");
  expect_refused(page_bytes(), 2 * page_bytes(), "overlaps");
  expect_refused(3 * page_bytes(), page_bytes(), "overlaps");
  EXPECT_TRUE(buffer.register_memory(pages.data(), page_bytes()));
}

TEST(RegisteredMemoryTest, EndWaitsForACombineThatIsInFlight) {
  std::atomic<bool> is_ending{false};
  in_process(2, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const auto recv = buffer.dispatch(args_for(comm.rank(), false));
    if (comm.rank() == 1) {
      while (!is_ending) std::this_thread::yield();
      std::this_thread::sleep_for(50ms);
      const auto out = buffer.combine({.x = recv.x, .handle = recv.handle});
      EXPECT_EQ(out.x.values<float>()[0], 10000.0F);  // one row, on rank 0
      return;
    }
    Pages pages(8);
    RegisteredMemory registration = buffer.register_memory(pages.data(), pages.num_bytes());
    const auto out =
        buffer.combine({.x = pages.hold(recv.x), .handle = recv.handle, .async_with_compute_stream = true});
    is_ending = true;
    registration = {};
    std::memset(pages.data(), 0xFF, pages.num_bytes());
    out.event.wait();
  });
}

TEST(RegisteredMemoryTest, MayOutliveItsBuffer) {
  const Pages pages(2);
  RegisteredMemory registration;
  {
    ElasticBuffer buffer(Communicator::self());
    registration = buffer.register_memory(pages.data(), pages.num_bytes());
  }
  registration = {};
}

}  // namespace
}  // namespace flexep
