// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "finite_difference.h"
#include "moe_lm/cross_entropy.h"
#include "moe_lm/embedding.h"
#include "moe_lm/linear.h"
#include "moe_lm/random.h"
#include "moe_lm/rms_norm.h"

namespace moe_lm {
namespace {

using flexep::DType;
using flexep::Tensor;

Tensor random_tensor(const flexep::Shape& shape, const std::string& name) {
  const Parameter drawn = make_parameter(name, shape, DType::kFloat64);
  randomize(drawn, 1.0, /*seed=*/7);
  return drawn.value;
}

/// A scalar whose gradient with respect to y is `weights`.
double dot(const Tensor& y, const Tensor& weights) {
  double sum = 0;
  for (std::int64_t i = 0; i < y.num_elements(); ++i) sum += y.data<double>()[i] * weights.data<double>()[i];
  return sum;
}

TEST(LinearTest, BackwardIsTheDerivativeOfForward) {
  Linear<double> linear("linear", 5, 3);
  randomize(linear.weight, 1.0, 1);
  randomize(linear.bias, 1.0, 1);
  const Tensor x = random_tensor({4, 5}, "x");
  const Tensor grad_y = random_tensor({4, 3}, "grad_y");
  const Tensor y = Tensor::zeros({4, 3}, DType::kFloat64);
  const Tensor grad_x = Tensor::zeros({4, 5}, DType::kFloat64);
  const auto loss = [&] {
    linear.forward(x, y);
    return dot(y, grad_y);
  };
  linear.backward(x, grad_y, grad_x);
  expect_gradient("x", loss, x, grad_x);
  expect_gradient("weight", loss, linear.weight.value, linear.weight.grad);
  expect_gradient("bias", loss, linear.bias.value, linear.bias.grad);
}

TEST(LinearTest, BackwardReplacesTheGradientsOfThePassBefore) {
  Linear<double> linear("linear", 2, 2);
  const Tensor x = random_tensor({3, 2}, "x");
  const Tensor grad_y = random_tensor({3, 2}, "grad_y");
  const Tensor grad_x = Tensor::zeros({3, 2}, DType::kFloat64);
  linear.backward(x, grad_y, grad_x);
  const Tensor weight_grad = linear.weight.grad.clone();
  const Tensor bias_grad = linear.bias.grad.clone();
  linear.backward(x, grad_y, grad_x);
  EXPECT_EQ(dot(linear.weight.grad, linear.weight.grad), dot(weight_grad, weight_grad));
  EXPECT_EQ(dot(linear.bias.grad, linear.bias.grad), dot(bias_grad, bias_grad));
}

TEST(LinearTest, NoRowsMeanNoGradient) {
  Linear<double> linear("linear", 5, 3);
  linear.weight.grad.data<double>()[0] = 1.0;
  const Tensor x = Tensor::zeros({0, 5}, DType::kFloat64);
  const Tensor y = Tensor::zeros({0, 3}, DType::kFloat64);
  linear.forward(x, y);
  linear.backward(x, y, x);
  EXPECT_EQ(dot(linear.weight.grad, linear.weight.grad), 0.0);
}

TEST(RmsNormTest, BackwardIsTheDerivativeOfForward) {
  RmsNorm<double> norm("norm", 6);
  randomize(norm.gain, 1.0, 1);
  const Tensor x = random_tensor({4, 6}, "x");
  const Tensor grad_y = random_tensor({4, 6}, "grad_y");
  const Tensor y = Tensor::zeros({4, 6}, DType::kFloat64);
  const Tensor grad_x = Tensor::zeros({4, 6}, DType::kFloat64);
  const auto loss = [&] {
    norm.forward(x, y);
    return dot(y, grad_y);
  };
  norm.backward(x, grad_y, grad_x);
  expect_gradient("x", loss, x, grad_x);
  expect_gradient("gain", loss, norm.gain.value, norm.gain.grad);
}

TEST(RmsNormTest, BackwardAddsToTheResidualGradient) {
  RmsNorm<double> norm("norm", 6);
  const Tensor x = random_tensor({1, 6}, "x");
  const Tensor grad_x = Tensor::zeros({1, 6}, DType::kFloat64);
  grad_x.data<double>()[0] = 3.0;
  norm.backward(x, Tensor::zeros({1, 6}, DType::kFloat64), grad_x);
  EXPECT_EQ(grad_x.data<double>()[0], 3.0);
}

TEST(RmsNormTest, RowsHaveRootMeanSquareOne) {
  RmsNorm<double> norm("norm", 64);
  const Tensor x = random_tensor({1, 64}, "x");
  norm.forward(x, x);
  EXPECT_NEAR(dot(x, x) / 64, 1.0, 1e-5);
}

TEST(ByteEmbeddingTest, BackwardIsTheDerivativeOfForward) {
  ByteEmbedding<double> embedding("embedding", 2);
  randomize(embedding.table, 1.0, 1);
  const std::vector<std::uint8_t> bytes = {0, 255, 10, 10, 0, 10};  // repeats: their gradients add up
  const Tensor grad_y = random_tensor({2, 6}, "grad_y");
  const Tensor y = Tensor::zeros({2, 6}, DType::kFloat64);
  const auto loss = [&] {
    embedding.forward(bytes, y);
    return dot(y, grad_y);
  };
  embedding.backward(bytes, grad_y);
  expect_gradient("table", loss, embedding.table.value, embedding.table.grad);
}

TEST(CrossEntropyTest, BackwardIsTheDerivativeOfForward) {
  const std::vector<std::uint8_t> targets = {3, 200};
  const Tensor logits = random_tensor({2, 256}, "logits");
  const Tensor grad = Tensor::zeros({2, 256}, DType::kFloat64);
  const double scale = 0.25;
  const double loss = cross_entropy_backward<double>(logits, targets, scale, grad);
  EXPECT_DOUBLE_EQ(loss, cross_entropy<double>(logits, targets));
  expect_gradient(
      "logits", [&] { return scale * cross_entropy<double>(logits, targets); }, logits, grad);
}

TEST(CrossEntropyTest, EqualLogitsCostEightBits) {
  const Tensor logits = Tensor::zeros({1, 256}, DType::kFloat64);
  EXPECT_NEAR(cross_entropy<double>(logits, std::vector<std::uint8_t>{65}), 8 * std::log(2.0), 1e-12);
}

TEST(CrossEntropyTest, LargeLogitsDoNotOverflow) {
  const Tensor logits = Tensor::zeros({1, 256}, DType::kFloat32);
  logits.data<float>()[1] = 1e4F;
  EXPECT_EQ(cross_entropy<float>(logits, std::vector<std::uint8_t>{1}), 0.0);
}

}  // namespace
}  // namespace moe_lm
