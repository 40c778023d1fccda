// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "flexep/flexep.h"
#include "flexep/torch.h"
#include "tokens.h"

namespace flexep {
namespace {

using testing::kHidden;
using testing::kNumExperts;
using testing::Tokens;

constexpr int kNumRanks = 2;

class LibTorchTest : public ::testing::TestWithParam<bool> {};

TEST_P(LibTorchTest, GradientsAreThoseOfTheSumOfSquares) {
  const bool do_expand = GetParam();
  in_process(kNumRanks, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Tokens tokens(comm.rank());
    const auto recv =
        autograd::dispatch(buffer, tokens.x, tokens.topk_idx, tokens.weights,
                           {.num_experts = kNumExperts, .expert_alignment = 4, .do_expand = do_expand});
    const torch::Tensor weights = do_expand ? recv.topk_weights : recv.topk_weights.sum(1);
    const auto out = autograd::combine(buffer, recv.x.square() * weights.unsqueeze(1), recv.handle);
    out.x.sum().backward();

    const torch::Tensor sums = tokens.weights.detach().sum(1, /*keepdim=*/true);
    EXPECT_TRUE(torch::equal(out.x, tokens.x.square() * sums));
    EXPECT_TRUE(torch::equal(tokens.x.grad(), 2 * tokens.x * sums));
    const torch::Tensor squares = tokens.x.detach().square().sum(1, /*keepdim=*/true);
    EXPECT_TRUE(torch::equal(tokens.weights.grad(), squares * (tokens.topk_idx >= 0)));
  });
}

TEST_P(LibTorchTest, GradientsOfWeightsAndBiasComeThroughCombine) {
  const bool do_expand = GetParam();
  in_process(kNumRanks, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Tokens tokens(comm.rank());
    const auto recv = autograd::dispatch(buffer, tokens.x, tokens.topk_idx, tokens.weights,
                                         {.num_experts = kNumExperts, .do_expand = do_expand});
    const torch::Tensor bias = torch::zeros_like(tokens.x).set_requires_grad(true);
    const auto out = autograd::combine(buffer, recv.x, recv.handle, recv.topk_weights, bias);
    EXPECT_TRUE(torch::equal(out.topk_weights, tokens.weights));
    (3 * out.x.sum() + out.topk_weights.square().sum()).backward();
    EXPECT_TRUE(torch::equal(bias.grad(), torch::full_like(bias, 3)));
    EXPECT_TRUE(torch::equal(tokens.weights.grad(), 2 * tokens.weights.detach()));
  });
}

TEST_P(LibTorchTest, RankWithoutTokensTakesPartInBackward) {
  const bool do_expand = GetParam();
  in_process(kNumRanks, [&](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Tokens tokens(comm.rank(), comm.rank() == 0 ? 3 : 0);
    const auto recv = autograd::dispatch(buffer, tokens.x, tokens.topk_idx, tokens.weights,
                                         {.num_experts = kNumExperts, .do_expand = do_expand});
    autograd::combine(buffer, recv.x, recv.handle).x.sum().backward();
    EXPECT_EQ(tokens.x.grad().sizes(), tokens.x.sizes());
  });
}

INSTANTIATE_TEST_SUITE_P(Layouts, LibTorchTest, ::testing::Bool(),
                         [](const auto& layout) { return layout.param ? "Expanded" : "Compact"; });

TEST(LibTorchHandleTest, GapsAreZeroInGradients) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Tokens tokens(comm.rank());
    const auto recv =
        autograd::dispatch(buffer, tokens.x, tokens.topk_idx, tokens.weights,
                           {.num_experts = kNumExperts, .expert_alignment = 8, .do_expand = true});
    const torch::Tensor y = recv.x.detach().clone().set_requires_grad(true);
    { buffer.empty({4096, kHidden}, DType::kFloat64).values<double>()[0] = std::nan(""); }
    autograd::combine(buffer, y, recv.handle).x.sum().backward();
    double num_pairs = 0;
    for (const int count : recv.handle.num_recv_tokens_per_expert()) num_pairs += count;
    EXPECT_EQ(y.grad().sum().item<double>(), kHidden * num_pairs);
  });
}

TEST(LibTorchHandleTest, HandleIsRepeatedWithoutIds) {
  in_process(kNumRanks, [](Communicator& comm) {
    ElasticBuffer buffer(comm);
    const Tokens tokens(comm.rank());
    const auto first = autograd::dispatch(buffer, tokens.x, tokens.topk_idx, tokens.weights,
                                          {.num_experts = kNumExperts, .do_expand = true});
    const auto again = autograd::dispatch(buffer, tokens.x, {}, {}, {.handle = first.handle});
    EXPECT_TRUE(torch::equal(first.x, again.x));
    (first.x.sum() + again.x.sum()).backward();
    const torch::Tensor num_pairs = (tokens.topk_idx >= 0).sum(1, /*keepdim=*/true);
    EXPECT_TRUE(torch::equal(tokens.x.grad(), 2.0 * num_pairs.expand_as(tokens.x)));
  });
}

TEST(LibTorchHandleTest, StrangersAreRefusedByName) {
  ElasticBuffer buffer(Communicator::self());
  const torch::Tensor ids = torch::zeros({1, 1}, torch::kLong);
  EXPECT_THROW(
      autograd::dispatch(buffer, torch::zeros({1, 4}, torch::kComplexFloat), ids, {}, {.num_experts = 1}),
      InvalidArgument);
  const torch::Tensor nowhere = torch::zeros({1, 4}, c10::kMeta);
  try {
    autograd::dispatch(buffer, nowhere, ids, {}, {.num_experts = 1});
    FAIL() << "accepted";
  } catch (const InvalidArgument& error) {
    EXPECT_EQ(error.argument(), "x");
    EXPECT_THAT(error.what(), ::testing::HasSubstr("meta"));
  }
}

}  // namespace
}  // namespace flexep
