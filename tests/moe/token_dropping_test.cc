// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <limits>

#include "flexep/moe/router.h"
#include "matrices.h"
#include "support/tensors.h"

namespace flexep::moe {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using testing::rejected_argument;
using Map = std::vector<std::int32_t>;
using Probs = std::vector<float>;

// Four tokens, one expert each of two: expert 0 gets tokens 0, 1, 3, expert 1 token 2.
const Tensor kProbs = tensor_of<float>({4, 2}, {0.5f, 0, 0.25f, 0, 0, 1, 0.75f, 0});
const Tensor kMap = tensor_of<std::int32_t>({4, 2}, {1, 0, 1, 0, 0, 1, 1, 0});

TEST(ExpertCapacityTest, IsAnEvenShareTimesTheFactorRoundedUp) {
  EXPECT_EQ(expert_capacity(10, 4, 1.0), 3);
  EXPECT_EQ(expert_capacity(8, 4, 1.0), 2);
  EXPECT_EQ(expert_capacity(8, 4, 1.25), 3);
  EXPECT_EQ(expert_capacity(0, 4, 1.25), 0);
  EXPECT_EQ(expert_capacity(8, 4, 1.0, /*min_capacity=*/4), 4);
}

TEST(TokenDroppingTest, ByProbsTheMostProbableStay) {
  const auto result = apply_router_token_dropping(kProbs, kMap, {.router_topk = 1});  // capacity 2
  EXPECT_EQ(values_of<std::int32_t>(result.routing_map), (Map{1, 0, 0, 0, 0, 1, 1, 0}));
  EXPECT_EQ(values_of<float>(result.probs), (Probs{0.5f, 0, 0, 0, 0, 1, 0.75f, 0}));
}

TEST(TokenDroppingTest, ByPositionTheFirstStay) {
  const auto result = apply_router_token_dropping(
      kProbs, kMap, {.router_topk = 1, .drop_policy = TokenDropPolicy::kPosition});
  EXPECT_EQ(values_of<std::int32_t>(result.routing_map), (Map{1, 0, 1, 0, 0, 1, 0, 0}));
}

TEST(TokenDroppingTest, PaddingGivesEachExpertExactlyItsCapacity) {
  const auto result = apply_router_token_dropping(kProbs, kMap, {.router_topk = 1, .pad_to_capacity = true});
  EXPECT_EQ(values_of<std::int32_t>(result.routing_map), (Map{1, 1, 0, 0, 0, 1, 1, 0}));
  EXPECT_EQ(values_of<float>(result.probs), (Probs{0.5f, 0, 0, 0, 0, 1, 0.75f, 0}));
}

TEST(TokenDroppingTest, ACapacityAboveTheTokensChangesNothing) {
  const auto result = apply_router_token_dropping(
      kProbs, kMap, {.router_topk = 1, .capacity_factor = 3, .pad_to_capacity = true});
  EXPECT_EQ(values_of<std::int32_t>(result.routing_map), values_of<std::int32_t>(kMap));
  const auto floor = apply_router_token_dropping(
      kProbs, kMap, {.router_topk = 1, .capacity_factor = 0.5, .min_capacity = 3});
  EXPECT_EQ(values_of<std::int32_t>(floor.routing_map), values_of<std::int32_t>(kMap));
}

TEST(TokenDroppingTest, ACapacityOfZeroDropsAll) {
  const auto result = apply_router_token_dropping(kProbs, kMap, {.router_topk = 1, .capacity_factor = 0});
  EXPECT_EQ(values_of<std::int32_t>(result.routing_map), Map(8));
}

TEST(TokenDroppingTest, GradientsOfWhatWasDroppedAreNotRead) {
  const auto result = apply_router_token_dropping(kProbs, kMap, {.router_topk = 1});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto grad = apply_router_token_dropping_backward(
      tensor_of<float>({4, 2}, {1, nan, nan, nan, nan, 2, 3, nan}), result.routing_map);
  EXPECT_EQ(values_of<float>(grad.value()), (Probs{1, 0, 0, 0, 0, 2, 3, 0}));
}

TEST(TokenDroppingTest, NoTokensAreNormal) {
  const auto result = apply_router_token_dropping(Tensor::empty({0, 2}, DType::kFloat32),
                                                  Tensor::empty({0, 2}, DType::kInt32),
                                                  {.router_topk = 1, .pad_to_capacity = true});
  EXPECT_EQ(result.probs.shape(), (Shape{0, 2}));
}

TEST(TokenDroppingTest, ArgumentsThatDoNotFitAreNamed) {
  const auto reject = [](const Tensor& probs, const Tensor& map) {
    return rejected_argument([&] { apply_router_token_dropping(probs, map, {.router_topk = 1}); });
  };
  EXPECT_EQ(reject(kProbs.reshape({8}), kMap), "probs");
  EXPECT_EQ(reject(kProbs, kMap.rows(0, 3)), "routing_map");
  EXPECT_EQ(reject(kProbs, kProbs), "routing_map");
}

}  // namespace
}  // namespace flexep::moe
