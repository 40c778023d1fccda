// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "cuda/gpus.h"
#include "cuda_devices.h"
#include "flexep/cuda.h"
#include "flexep/elastic_buffer.h"
#include "support/tensors.h"

namespace flexep::testing {

constexpr int kNumExperts = 6;
constexpr int kHidden = 4;

/// Skipped without a GPU.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = tool::why_no_cuda_device(); !reason.empty()) GTEST_SKIP() << reason;
  }
};

/// Two tokens, each to the first and the last rank.
inline DispatchArgs good_args(int rank) {
  const auto first = static_cast<float>(10 * rank + 1);
  return {
      .x = cuda::to_device(tensor_of<float>({2, kHidden}, {first, 0, 0, 0, first + 1, 0, 0, 0}), this_gpu()),
      .topk_idx = cuda::to_device(tensor_of<std::int64_t>({2, 2}, {0, kNumExperts - 1, kNumExperts - 1, 0}),
                                  this_gpu()),
      .num_experts = kNumExperts};
}

inline void expect_round_trip_works(ElasticBuffer& buffer) {
  const DispatchArgs args = good_args(buffer.rank());
  const auto received = buffer.dispatch(args);
  const auto combined = buffer.combine({.x = received.x, .handle = received.handle});
  EXPECT_EQ(values_of<float>(cuda::to_host(combined.x))[0], 2 * values_of<float>(cuda::to_host(args.x))[0]);
}

}  // namespace flexep::testing
