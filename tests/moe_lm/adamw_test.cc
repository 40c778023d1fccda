// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/adamw.h"

#include <gtest/gtest.h>

#include <cmath>

namespace moe_lm {
namespace {

using flexep::DType;

TEST(AdamWTest, FirstStepMovesByTheLearningRateAgainstTheGradient) {
  Parameter p = make_parameter("p", {2}, DType::kFloat32);
  AdamW adamw({&p}, {});
  p.grad.data<float>()[0] = 4.0F;
  p.grad.data<float>()[1] = -0.5F;
  adamw.step(/*learning_rate=*/0.1, /*grad_scale=*/1.0);
  EXPECT_NEAR(p.value.data<float>()[0], -0.1, 1e-6);
  EXPECT_NEAR(p.value.data<float>()[1], 0.1, 1e-6);
}

TEST(AdamWTest, FollowsTheFormulaForSeveralSteps) {
  const AdamWConfig config = {.beta1 = 0.8, .beta2 = 0.9, .epsilon = 1e-3, .weight_decay = 0.1};
  Parameter p = make_parameter("p", {1, 1}, DType::kFloat32);
  p.value.data<float>()[0] = 2.0F;
  AdamW adamw({&p}, config);
  double x = 2.0, m = 0, v = 0;
  for (int t = 1; t <= 5; ++t) {
    const double g = std::sin(t);
    p.grad.data<float>()[0] = static_cast<float>(2 * g);
    adamw.step(0.05, /*grad_scale=*/0.5);
    m = 0.8 * m + 0.2 * g;
    v = 0.9 * v + 0.1 * g * g;
    x -= 0.05 * 0.1 * x;
    x -= 0.05 * (m / (1 - std::pow(0.8, t))) / (std::sqrt(v / (1 - std::pow(0.9, t))) + 1e-3);
    EXPECT_NEAR(p.value.data<float>()[0], x, 1e-5);
  }
}

TEST(AdamWTest, OnlyMatricesDecay) {
  Parameter gain = make_parameter("gain", {1}, DType::kFloat32);
  Parameter weight = make_parameter("weight", {1, 1}, DType::kFloat32);
  gain.value.data<float>()[0] = weight.value.data<float>()[0] = 1.0F;
  AdamW({&gain, &weight}, {.weight_decay = 0.5}).step(0.1, 1.0);
  EXPECT_FLOAT_EQ(gain.value.data<float>()[0], 1.0F);
  EXPECT_FLOAT_EQ(weight.value.data<float>()[0], 0.95F);
}

TEST(AdamWTest, AGradientOfZeroLeavesTheValue) {
  Parameter p = make_parameter("p", {1}, DType::kFloat32);
  p.value.data<float>()[0] = 1.0F;
  AdamW({&p}, {}).step(0.1, 1.0);
  EXPECT_EQ(p.value.data<float>()[0], 1.0F);
}

}  // namespace
}  // namespace moe_lm
