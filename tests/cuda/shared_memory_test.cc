// SPDX-License-Identifier: Apache-2.0
//
// Device memory between processes, each of which is a rank. This process itself never uses CUDA:
// what it forks off would not be able to.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "conformance/cuda_memory.h"
#include "cuda/small_round_trip.h"
#include "flexep/cuda.h"
#include "flexep/elastic_buffer.h"
#include "flexep/error.h"
#include "support/processes.h"
#include "support/tensors.h"

namespace flexep {
namespace {

using namespace std::chrono_literals;
using flexep::testing::tensor_of;
using flexep::testing::this_gpu;
using flexep::testing::values_of;

constexpr int kNumRanks = 2;
constexpr int kNumTokens = 50;
constexpr int kHidden = 64;
constexpr int kNoDevice = 77;

/// Runs `body` in each process; it returns whether all was well.
void expect_well(const std::string& name, const std::function<bool(ElasticBuffer&)>& body) {
  test::Processes processes("cuda_test/" + name + "/" + std::to_string(getpid()), kNumRanks, [&](int) {
    if (!tool::why_no_cuda_device().empty()) return kNoDevice;
    Communicator comm = Communicator::from_environment({.timeout = 60s});
    flexep::testing::use_gpu_of(comm.rank());
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    return body(buffer) ? 0 : 1;
  });
  bool is_skipped = false;
  for (int rank = 0; rank < kNumRanks; ++rank) {
    const int code = processes.exit_code_of(rank);
    is_skipped = is_skipped || code == kNoDevice;
    if (code != kNoDevice) {
      EXPECT_EQ(code, 0) << "rank " << rank;
    }
  }
  if (is_skipped) GTEST_SKIP() << "no GPU";
}

/// Each token to every rank.
DispatchResult dispatch(ElasticBuffer& buffer) {
  std::vector<std::int64_t> topk_idx;
  for (int i = 0; i < kNumTokens * kNumRanks; ++i) topk_idx.push_back(i % kNumRanks);
  return buffer.dispatch(
      {.x = cuda::to_device(Tensor::zeros({kNumTokens, kHidden}, DType::kFloat32), this_gpu()),
       .topk_idx = cuda::to_device(tensor_of<std::int64_t>({kNumTokens, kNumRanks}, topk_idx), this_gpu()),
       .num_experts = kNumRanks});
}

/// Combines rows that are all `value`, written into `memory` first. @return whether the sums are right.
bool combine(ElasticBuffer& buffer, const DispatchResult& recv, std::byte* memory, float value) {
  const Tensor y = Tensor::from_memory(memory, recv.x.shape(), DType::kFloat32, nullptr, this_gpu());
  const auto num_elements = static_cast<std::size_t>(y.num_elements());
  conformance::write_on_cuda(y, tensor_of<float>(y.shape(), std::vector<float>(num_elements, value)));
  const auto out = buffer.combine({.x = y, .handle = recv.handle});
  const Tensor sums = cuda::to_host(out.x);
  for (const float sum : sums.values<float>()) {
    if (sum != value * kNumRanks) return false;
  }
  return true;
}

TEST(CudaSharedMemoryTest, ProcessesReadItInPlaceForAsLongAsItIsRegistered) {
  expect_well("registered", [](ElasticBuffer& buffer) {
    const auto memory = conformance::allocate_on_cuda(64 << 10, this_gpu());
    std::byte* const begin = memory.get() + 4096;  // the middle of an allocation
    const auto recv = dispatch(buffer);
    bool ok = combine(buffer, recv, begin, 1);
    const auto staged = buffer.counters().combine.staging_bytes;
    for (int round = 0; round < 3; ++round) {
      const RegisteredMemory registration = buffer.register_memory(begin, 32 << 10);
      for (int i = 0; i < 3; ++i) ok = ok && combine(buffer, recv, begin, static_cast<float>(10 * round + i));
      ok = ok && buffer.counters().combine.staging_bytes == staged;
    }
    ok = ok && combine(buffer, recv, begin, 5) && buffer.counters().combine.staging_bytes > staged;
    return ok && staged > 0;
  });
}

TEST(CudaSharedMemoryTest, MemoryThatIsFreedAndAllocatedAnewIsMappedAnew) {
  expect_well("anew", [](ElasticBuffer& buffer) {
    const auto recv = dispatch(buffer);
    bool ok = true;
    for (int round = 0; round < 4; ++round) {
      const auto memory =
          conformance::allocate_on_cuda(static_cast<std::size_t>(2 + round % 2) << 20, this_gpu());
      const RegisteredMemory registration = buffer.register_memory(memory.get(), 2 << 20);
      ok = ok && combine(buffer, recv, memory.get(), static_cast<float>(round));
      if (round == 2) buffer.trim();
    }
    return ok;
  });
}

TEST(CudaSharedMemoryTest, MemoryOfAPoolIsRefusedByName) {
  expect_well("pool", [](ElasticBuffer& buffer) {
    const Tensor memory = cuda::empty({1 << 16}, DType::kUInt8, this_gpu());
    cudaStreamSynchronize(cuda::current_stream());
    try {
      const auto unexpected = buffer.register_memory(memory.data(), memory.num_bytes());
      return false;
    } catch (const InvalidArgument& error) {
      return std::string(error.what()).find("memory pool") != std::string::npos;
    }
  });
}

TEST(CudaSharedMemoryTest, TrimGivesMemoryBackWhileOtherRanksWaitForThisOne) {
  expect_well("trim", [](ElasticBuffer& buffer) {
    bool is_right = true;
    dispatch(buffer);
    if (buffer.rank() == 0) {
      buffer.empty({200 << 20}, DType::kUInt8);
      const std::int64_t held = buffer.arena_bytes();
      std::this_thread::sleep_for(200ms);  // rank 1 waits in its next dispatch by now
      // Half of it at least: some lay in what there was before.
      const std::int64_t num_bytes = buffer.trim();
      is_right = num_bytes >= 100 << 20 && buffer.arena_bytes() == held - num_bytes;
      // Maps other memory at the same addresses.
      buffer.empty({100 << 20}, DType::kUInt8);
    }
    const auto recv = dispatch(buffer);
    const Tensor y = buffer.empty(recv.x.shape(), DType::kFloat32);
    return combine(buffer, recv, static_cast<std::byte*>(y.data()), 7) && is_right;
  });
}

/// What buffer.empty() of another buffer gives is virtual memory of cuMemCreate.
TEST(CudaSharedMemoryTest, VirtualMemoryIsSharedPieceByPiece) {
  expect_well("virtual", [](ElasticBuffer& buffer) {
    ElasticBuffer other(Communicator::self(), {.device = this_gpu()});
    const Tensor first = other.empty({100 << 20}, DType::kUInt8);
    const Tensor second = other.empty({200 << 20}, DType::kUInt8);  // grows: from here on another piece
    std::byte* const begin = static_cast<std::byte*>(first.data()) + (96 << 20);
    const RegisteredMemory registration = buffer.register_memory(begin, 64 << 20);
    const auto recv = dispatch(buffer);
    const auto staged = buffer.counters().combine.staging_bytes;
    bool ok = combine(buffer, recv, begin, 3) && combine(buffer, recv, begin + (60 << 20), 4);
    return ok && buffer.counters().combine.staging_bytes == staged;
  });
}

}  // namespace
}  // namespace flexep
