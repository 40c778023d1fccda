// SPDX-License-Identifier: Apache-2.0
#include <c10/cuda/CUDAGuard.h>
#include <gtest/gtest.h>

#include "flexep/flexep.h"
#include "flexep/torch_cuda.h"
#include "tokens.h"

namespace flexep {
namespace {

using testing::Tokens;

class LibTorchCudaTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    if (!torch::cuda::is_available()) GTEST_SKIP() << "there is no GPU";
  }
};

/// Keeps the current stream busy for some milliseconds.
void delay() {
  const torch::Tensor factor = torch::ones({4096, 4096}, torch::kCUDA);
  for (int i = 0; i < 4; ++i) factor.mm(factor);
}

TEST_P(LibTorchCudaTest, LayerFollowsTheCurrentStream) {
  const bool do_expand = GetParam();
  const c10::cuda::CUDAStreamGuard guard(c10::cuda::getStreamFromPool());
  ElasticBuffer buffer(Communicator::self(), {.device = Device::cuda(0)});
  const Tokens tokens(0, 3, c10::kCUDA);
  for (int round = 1; round <= 10; ++round) {
    delay();
    {
      const torch::NoGradGuard in_place;
      tokens.x.add_(1);  // behind the delay, and dispatch behind it
    }
    for (const torch::Tensor& leaf : {tokens.x, tokens.weights}) leaf.mutable_grad().reset();
    const auto recv = autograd::dispatch(
        buffer, tokens.x, tokens.topk_idx, tokens.weights,
        {.num_experts = testing::kNumExperts, .expert_alignment = 4, .do_expand = do_expand});
    ASSERT_TRUE(recv.x.is_cuda());
    const torch::Tensor weights = do_expand ? recv.topk_weights : recv.topk_weights.sum(1);
    const auto out = autograd::combine(buffer, recv.x.square() * weights.unsqueeze(1), recv.handle);
    delay();
    out.x.sum().backward();

    const torch::Tensor sums = tokens.weights.detach().sum(1, /*keepdim=*/true);
    EXPECT_TRUE(torch::equal(out.x, tokens.x.square() * sums)) << "round " << round;
    EXPECT_TRUE(torch::equal(tokens.x.grad(), 2 * tokens.x * sums)) << "round " << round;
    const torch::Tensor squares = tokens.x.detach().square().sum(1, /*keepdim=*/true);
    EXPECT_TRUE(torch::equal(tokens.weights.grad(), squares * (tokens.topk_idx >= 0))) << "round " << round;
  }
  buffer.check();
}

INSTANTIATE_TEST_SUITE_P(Layouts, LibTorchCudaTest, ::testing::Bool(),
                         [](const auto& layout) { return layout.param ? "Expanded" : "Compact"; });

TEST_F(LibTorchCudaTest, TensorsOfTheHostAreRefusedByName) {
  ElasticBuffer buffer(Communicator::self(), {.device = Device::cuda(0)});
  const Tokens tokens(0);
  try {
    autograd::dispatch(buffer, tokens.x, tokens.topk_idx, {}, {.num_experts = testing::kNumExperts});
    FAIL() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(error.argument(), "x");
  }
}

}  // namespace
}  // namespace flexep
