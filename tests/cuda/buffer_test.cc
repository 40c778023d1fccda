// SPDX-License-Identifier: Apache-2.0
//
// ElasticBuffer on a GPU: the same answers as on the CPU. Ranks are threads that share the GPU.
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "conformance/random.h"
#include "conformance/run_case.h"
#include "cuda/small_round_trip.h"

namespace flexep {
namespace {

using flexep::testing::kGpu;

class CudaBufferTest : public flexep::testing::CudaTest, public ::testing::WithParamInterface<int> {};

TEST_P(CudaBufferTest, AgreesWithTheReferenceToTheBit) {
  constexpr int kNumCases = 40;
  std::atomic<int> num_passed{0};
  in_process(GetParam(), [&](Communicator& comm) {
    conformance::CaseRunner runner(comm, kGpu);
    for (std::uint64_t seed = 0; seed < kNumCases; ++seed) {
      const auto spec = conformance::draw_case(conformance::Random(17, seed).next(), comm.num_ranks());
      const auto finding = runner.run(spec, conformance::ExpectedResults(spec));
      EXPECT_EQ(finding.value_or(""), "") << "rank " << comm.rank() << ", " << spec.to_string();
      num_passed += !finding;
    }
  });
  EXPECT_EQ(num_passed, kNumCases * GetParam());
}

INSTANTIATE_TEST_SUITE_P(Ranks, CudaBufferTest, ::testing::Values(1, 2, 3, 4, 8));

class CudaCountersTest : public flexep::testing::CudaTest {};

TEST_F(CudaCountersTest, AreReadOnAnotherThreadMeanwhile) {
  constexpr int kNumRounds = 50;
  in_process(2, [&](Communicator& comm) {
    ElasticBuffer buffer(comm, {.device = kGpu});
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
