// SPDX-License-Identifier: Apache-2.0
//
// Tensors of a GPU in groups of several domains, whose rows go by way of the host's memory. Ranks are threads
// that play domains and share the GPU.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "conformance/random.h"
#include "conformance/run_case.h"
#include "cuda/small_round_trip.h"
#include "flexep/error.h"

namespace flexep {
namespace {

using namespace flexep::testing;
using namespace std::chrono_literals;
using ::testing::HasSubstr;

/// Domains, ranks of each.
class CudaDomainsTest : public CudaTest, public ::testing::WithParamInterface<std::pair<int, int>> {
 protected:
  void run(const std::function<void(Communicator&)>& body) const {
    const auto [num_domains, num_scaleup_ranks] = GetParam();
    on_gpus(num_domains * num_scaleup_ranks, body, {.timeout = 60s, .num_scaleup_ranks = num_scaleup_ranks});
  }
};

TEST_P(CudaDomainsTest, AgreeWithTheReferenceToTheBit) {
  constexpr std::uint64_t kNumCases = 30;
  run([&](Communicator& comm) {
    conformance::CaseRunner runner(comm, {.device = this_gpu()});
    for (std::uint64_t seed = 0; seed < kNumCases; ++seed) {
      const auto spec =
          conformance::draw_case(conformance::Random(23, seed).next(), comm.num_ranks(), GetParam().first);
      const auto finding = runner.run(spec, conformance::ExpectedResults(spec));
      EXPECT_EQ(finding.value_or(""), "") << "rank " << comm.rank() << ", " << spec.to_string();
    }
  });
}

INSTANTIATE_TEST_SUITE_P(All, CudaDomainsTest,
                         ::testing::Values(std::pair(2, 1), std::pair(2, 2), std::pair(3, 1),
                                           std::pair(4, 2)));

class CudaTwoDomainsTest : public CudaDomainsTest {};

void sleep_on(cudaStream_t stream) {
  ASSERT_EQ(cudaLaunchHostFunc(
                stream, [](void*) { std::this_thread::sleep_for(30ms); }, nullptr),
            cudaSuccess);
}

/// Twice every row comes back, each from an expert that returns it as it is.
TEST_P(CudaTwoDomainsTest, OperationsFollowTheCurrentStream) {
  run([](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    DispatchArgs args = good_args(comm.rank());
    const Tensor x = tensor_of<float>({2, kHidden}, {3, 3, 3, 3, 4, 4, 4, 4});
    const Tensor pinned = [&] {
      void* memory = nullptr;
      EXPECT_EQ(cudaMallocHost(&memory, x.num_bytes()), cudaSuccess);
      std::memcpy(memory, x.data(), x.num_bytes());
      return Tensor::from_memory(memory, x.shape(), x.dtype(),
                                 {memory, [](void* freed) { cudaFreeHost(freed); }});
    }();
    for (const bool is_async : {false, true}) {
      args.async_with_compute_stream = is_async;
      args.x = buffer.empty({2, kHidden}, DType::kFloat32);
      sleep_on(cuda::current_stream());
      ASSERT_EQ(cudaMemcpyAsync(args.x.data(), pinned.data(), x.num_bytes(), cudaMemcpyDefault,
                                cuda::current_stream()),
                cudaSuccess);
      const auto received = buffer.dispatch(args);
      if (is_async) cuda::wait(received.event);
      const auto combined =
          buffer.combine({.x = received.x, .handle = received.handle, .async_with_compute_stream = is_async});
      if (is_async) cuda::wait(combined.event);
      EXPECT_EQ(values_of<float>(cuda::to_host(combined.x)), (std::vector<float>{6, 6, 6, 6, 8, 8, 8, 8}));
    }
  });
}

TEST_P(CudaTwoDomainsTest, ACaptureIsRefused) {
  run([](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    const DispatchArgs args = good_args(comm.rank());
    cudaStream_t stream = nullptr;
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    {
      const cuda::StreamGuard guard(stream);
      ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
      try {
        buffer.dispatch(args);
        ADD_FAILURE() << "a dispatch across domains was captured";
      } catch (const InvalidArgument& error) {
        EXPECT_THAT(error.what(), HasSubstr("captured"));
      }
      cudaGraph_t graph = nullptr;
      EXPECT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
      if (graph != nullptr) cudaGraphDestroy(graph);
    }
    expect_round_trip_works(buffer);
    cudaStreamDestroy(stream);
  });
}

TEST_P(CudaTwoDomainsTest, ResultsOutliveTheirBuffer) {
  run([](Communicator& comm) {
    Tensor sums;
    {
      ElasticBuffer buffer(comm, {.device = this_gpu()});
      const auto received = buffer.dispatch(good_args(comm.rank()));
      sums = buffer.combine({.x = received.x, .handle = received.handle}).x;
    }
    EXPECT_EQ(values_of<float>(cuda::to_host(sums))[0], static_cast<float>(20 * comm.rank() + 2));
  });
}

INSTANTIATE_TEST_SUITE_P(All, CudaTwoDomainsTest, ::testing::Values(std::pair(2, 1)));

}  // namespace
}  // namespace flexep
