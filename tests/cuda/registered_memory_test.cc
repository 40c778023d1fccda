// SPDX-License-Identifier: Apache-2.0
//
// Memory of the program's own that combine reads in place. Ranks are threads that take turns with the GPUs.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <string>
#include <thread>

#include "conformance/cuda_memory.h"
#include "cuda/small_round_trip.h"
#include "flexep/cuda.h"
#include "flexep/elastic_buffer.h"
#include "flexep/error.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;
using flexep::testing::on_gpus;
using flexep::testing::tensor_of;
using flexep::testing::this_gpu;
using flexep::testing::values_of;

constexpr int kNumRanks = 3;
constexpr int kNumTokens = 20;
constexpr int kHidden = 64;

using CudaRegisteredMemoryTest = flexep::testing::CudaTest;

/// Each token to this rank and the next; rows of all different values.
DispatchArgs args_for(int rank, int num_ranks, bool do_expand) {
  std::vector<float> x;
  for (int i = 0; i < kNumTokens * kHidden; ++i) x.push_back(static_cast<float>(rank * 10000 + i));
  std::vector<std::int64_t> topk_idx;
  for (int i = 0; i < kNumTokens; ++i) {
    topk_idx.push_back(2 * rank + i % 2);
    topk_idx.push_back(2 * ((rank + 1) % num_ranks));
  }
  if (num_ranks == 1) {
    for (int i = 0; i < kNumTokens; ++i) topk_idx[static_cast<std::size_t>(2 * i)] = 1;
  }
  return {.x = cuda::to_device(tensor_of<float>({kNumTokens, kHidden}, x), this_gpu()),
          .topk_idx = cuda::to_device(tensor_of<std::int64_t>({kNumTokens, 2}, topk_idx), this_gpu()),
          .topk_weights = cuda::to_device(Tensor::zeros({kNumTokens, 2}, DType::kFloat32), this_gpu()),
          .num_experts = 2 * num_ranks,
          .do_expand = do_expand};
}

/// A copy of a tensor of the GPU, which ranks on other GPUs reach once it is registered.
Tensor copy_of(const Tensor& tensor) {
  const auto memory = conformance::allocate_on_cuda(std::max(tensor.num_bytes(), std::size_t{1}), this_gpu());
  const Tensor copy = Tensor::from_memory(memory.get(), tensor.shape(), tensor.dtype(), memory, this_gpu());
  conformance::write_on_cuda(copy, cuda::to_host(tensor));
  return copy;
}

TEST_F(CudaRegisteredMemoryTest, CombineReadsItInPlaceWithTheSameBits) {
  for (const bool do_expand : {false, true}) {
    for (const bool allow_multiple_reduction : {false, true}) {
      on_gpus(kNumRanks, [&](Communicator& comm) {
        ElasticBuffer buffer(comm,
                             {.device = this_gpu(), .allow_multiple_reduction = allow_multiple_reduction});
        const auto recv = buffer.dispatch(args_for(comm.rank(), kNumRanks, do_expand));
        const Tensor y = copy_of(recv.x);
        const Tensor weights = copy_of(recv.topk_weights);
        const auto expected = buffer.combine({.x = y, .handle = recv.handle, .topk_weights = weights});
        const auto staged_before = buffer.counters().combine.staging_bytes;
        EXPECT_GT(staged_before, 0);

        const RegisteredMemory rows = buffer.register_memory(y.data(), y.num_bytes());
        const RegisteredMemory others = buffer.register_memory(weights.data(), weights.num_bytes());
        const auto out = buffer.combine({.x = y, .handle = recv.handle, .topk_weights = weights});
        EXPECT_EQ(buffer.counters().combine.staging_bytes, staged_before);
        EXPECT_EQ(values_of<float>(cuda::to_host(out.x)), values_of<float>(cuda::to_host(expected.x)));
      });
    }
  }
}

TEST_F(CudaRegisteredMemoryTest, MemoryThatIsNotAllRegisteredOrNotAnyMoreIsStaged) {
  on_gpus(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    const auto recv = buffer.dispatch(args_for(comm.rank(), 2, false));
    const Tensor y = copy_of(recv.x);
    const auto is_staged = [&] {
      const auto before = buffer.counters().combine.staging_bytes;
      buffer.combine({.x = y, .handle = recv.handle});
      return buffer.counters().combine.staging_bytes > before;
    };
    {
      const RegisteredMemory part = buffer.register_memory(y.data(), y.num_bytes() / 2);
      EXPECT_TRUE(is_staged());
    }
    {
      const RegisteredMemory all = buffer.register_memory(y.data(), y.num_bytes());
      EXPECT_FALSE(is_staged());
    }
    EXPECT_TRUE(is_staged());
  });
}

TEST_F(CudaRegisteredMemoryTest, UnfitMemoryIsRefusedByName) {
  ElasticBuffer buffer(Communicator::self(), {.device = this_gpu()});
  const Tensor memory = cuda::empty({4096}, DType::kUInt8, this_gpu());
  cudaStreamSynchronize(cuda::current_stream());
  const auto begin = static_cast<std::byte*>(memory.data());
  const RegisteredMemory registration = buffer.register_memory(begin + 1024, 1024);
  const auto expect_refused = [&](void* refused, std::size_t num_bytes, const std::string& part) {
    try {
      const auto unexpected = buffer.register_memory(refused, num_bytes);
      ADD_FAILURE() << "no error";
    } catch (const InvalidArgument& error) {
      EXPECT_EQ(error.argument(), "memory");
      EXPECT_NE(std::string(error.what()).find(part), std::string::npos) << error.what();
    }
  };
  const Tensor on_host = Tensor::zeros({64}, DType::kUInt8);
  expect_refused(nullptr, 64, "none");
  expect_refused(begin, 0, "none");
  expect_refused(on_host.data(), 64, "no memory of CUDA");
  expect_refused(begin, 1025, "overlaps");
  expect_refused(begin + 1500, 10, "overlaps");
  EXPECT_TRUE(buffer.register_memory(begin, 1024));
}

TEST_F(CudaRegisteredMemoryTest, OfAPoolItIsRefusedWhereRanksAreOnOtherGpus) {
  if (tool::num_cuda_devices() < 2) GTEST_SKIP() << "one GPU";
  on_gpus(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    const Tensor memory = cuda::empty({4096}, DType::kUInt8, this_gpu());
    cudaStreamSynchronize(cuda::current_stream());
    EXPECT_THROW(buffer.register_memory(memory.data(), memory.num_bytes()), InvalidArgument);
  });
}

TEST_F(CudaRegisteredMemoryTest, SlotsAreUsedAgain) {
  ElasticBuffer buffer(Communicator::self(), {.device = this_gpu()});
  const Tensor memory = cuda::empty({1 << 16}, DType::kUInt8, this_gpu());
  cudaStreamSynchronize(cuda::current_stream());
  const auto begin = static_cast<std::byte*>(memory.data());
  std::vector<RegisteredMemory> all;
  for (std::size_t i = 0; i < 64; ++i) all.push_back(buffer.register_memory(begin + 16 * i, 16));
  EXPECT_THROW(buffer.register_memory(begin + 16 * 64, 16), OutOfMemory);
  all[17] = {};
  EXPECT_TRUE(buffer.register_memory(begin + 16 * 64, 16));
}

TEST_F(CudaRegisteredMemoryTest, EndWaitsForACombineThatIsInFlight) {
  std::atomic<bool> is_ending{false};
  on_gpus(2, [&](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    const auto recv = buffer.dispatch(args_for(comm.rank(), 2, false));
    if (comm.rank() == 1) {
      while (!is_ending) std::this_thread::yield();
      std::this_thread::sleep_for(50ms);
      const auto out = buffer.combine({.x = recv.x, .handle = recv.handle});
      EXPECT_EQ(values_of<float>(cuda::to_host(out.x))[0], 20000.0F);  // one row on each rank
      return;
    }
    const Tensor y = copy_of(recv.x);
    const Tensor garbage = cuda::to_device(Tensor::zeros(y.shape(), y.dtype()), this_gpu());
    cudaStreamSynchronize(cuda::current_stream());
    RegisteredMemory registration = buffer.register_memory(y.data(), y.num_bytes());
    const auto out = buffer.combine({.x = y, .handle = recv.handle, .async_with_compute_stream = true});
    is_ending = true;
    registration = {};
    cudaMemcpyAsync(y.data(), garbage.data(), y.num_bytes(), cudaMemcpyDeviceToDevice,
                    cuda::current_stream());
    cudaStreamSynchronize(cuda::current_stream());
    out.event.wait();
  });
}

TEST_F(CudaRegisteredMemoryTest, MayOutliveItsBuffer) {
  const Tensor memory = cuda::empty({4096}, DType::kUInt8, this_gpu());
  cudaStreamSynchronize(cuda::current_stream());
  RegisteredMemory registration;
  {
    ElasticBuffer buffer(Communicator::self(), {.device = this_gpu()});
    registration = buffer.register_memory(memory.data(), memory.num_bytes());
  }
  registration = {};
}

}  // namespace
}  // namespace flexep
