// SPDX-License-Identifier: Apache-2.0
//
// ElasticBuffer on a GPU: the same answers as on the CPU. Ranks are threads that take turns with the GPUs.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "conformance/random.h"
#include "conformance/run_case.h"
#include "cuda/small_round_trip.h"

namespace flexep {
namespace {

using namespace flexep::testing;

class CudaBufferTest : public CudaTest, public ::testing::WithParamInterface<int> {};

void expect_agreement(int num_ranks, int num_cases, ArenaMemory arena_memory) {
  std::atomic<int> num_passed{0};
  on_gpus(num_ranks, [&](Communicator& comm) {
    conformance::CaseRunner runner(comm, {.device = this_gpu(), .arena_memory = arena_memory});
    for (int seed = 0; seed < num_cases; ++seed) {
      const auto spec = conformance::draw_case(
          conformance::Random(17, static_cast<std::uint64_t>(seed)).next(), comm.num_ranks());
      const auto finding = runner.run(spec, conformance::ExpectedResults(spec));
      EXPECT_EQ(finding.value_or(""), "") << "rank " << comm.rank() << ", " << spec.to_string();
      num_passed += !finding;
    }
  });
  EXPECT_EQ(num_passed, num_cases * num_ranks);
}

TEST_P(CudaBufferTest, AgreesWithTheReferenceToTheBit) {
  expect_agreement(GetParam(), 40, ArenaMemory::kDevice);
}

TEST_P(CudaBufferTest, AgreesWithTheReferenceWhereRowsLieInHostMemory) {
  expect_agreement(GetParam(), 15, ArenaMemory::kPinnedHost);
}

TEST_F(CudaTest, OpaqueSlotsAreThoseOfTheHandle) {
  on_gpus(2, [](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    DispatchArgs args = good_args(comm.rank());
    args.topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {0, 5, 1, -1}), this_gpu());
    const auto recv = buffer.dispatch(args);
    const auto slots = values_of<std::int32_t>(cuda::to_host(recv.handle.dst_buffer_slot_idx()));
    EXPECT_EQ(slots, (std::vector<std::int32_t>{2 * comm.rank(), comm.rank(), 2 * comm.rank() + 1, -1}));
    const auto cached = buffer.dispatch({.x = args.x, .handle = recv.handle});
    EXPECT_EQ(values_of<std::int32_t>(cuda::to_host(cached.handle.dst_buffer_slot_idx())), slots);
  });
}

INSTANTIATE_TEST_SUITE_P(Ranks, CudaBufferTest, ::testing::Values(1, 2, 3, 4, 8));

class CudaCountersTest : public flexep::testing::CudaTest {};

TEST_F(CudaCountersTest, AreReadOnAnotherThreadMeanwhile) {
  constexpr int kNumRounds = 50;
  on_gpus(2, [&](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = this_gpu()});
    std::atomic<bool> is_over{false};
    std::thread reader([&] {
      std::int64_t last = 0;
      while (!is_over) {
        const std::int64_t now = buffer.counters().dispatch.num_operations;
        EXPECT_GE(now, last);
        last = now;
      }
    });
    for (int round = 0; round < kNumRounds; ++round) flexep::testing::expect_round_trip_works(buffer);
    is_over = true;
    reader.join();
    EXPECT_EQ(buffer.counters().dispatch.num_operations, kNumRounds);
    EXPECT_EQ(buffer.counters().combine.num_operations, kNumRounds);
  });
}

}  // namespace
}  // namespace flexep
