// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/experts.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "finite_differences.h"
#include "matrices.h"
#include "moe/floating.h"

namespace flexep::moe {
namespace {

using testing::finite_differences;
using testing::near;
using testing::random_tensor;
using testing::rejected_argument;
using testing::rows_of;

constexpr std::int64_t kExperts = 3, kHidden = 4, kFfn = 5;
const std::vector<std::int32_t> kCounts{4, 0, 3};
constexpr std::int64_t kRows = 7;

struct Example {
  ExpertWeights<Tensor> weights;
  GroupedTokens input;
};

Example make_example(DType rows, DType weights) {
  const Tensor fc1 = random_tensor(kExperts, 2 * kFfn * kHidden, 1),
               fc2 = random_tensor(kExperts, kHidden * kFfn, 2);
  return {.weights = {.fc1 = cast(fc1.reshape({kExperts, 2 * kFfn, kHidden}), weights),
                      .fc2 = cast(fc2.reshape({kExperts, kHidden, kFfn}), weights)},
          .input = {.tokens = {.hidden = cast(random_tensor(kRows, kHidden, 3), rows),
                               .probs = cast(random_tensor(1, kRows, 4).reshape({kRows}), weights)},
                    .tokens_per_expert = kCounts}};
}

ExpertsForward forward(const Example& example) {
  const Tensor& hidden = example.input.tokens.hidden;
  return experts_forward(example.weights, example.input, Tensor::empty(hidden.shape(), hidden.dtype()));
}

ExpertsGradients backward(const Example& example, const Tensor& grad) {
  const Tensor& hidden = example.input.tokens.hidden;
  return experts_backward(example.weights, forward(example).context, grad,
                          Tensor::empty(hidden.shape(), hidden.dtype()));
}

double inner_product(const Tensor& a, const Tensor& b) {
  const auto left = a.values<double>(), right = b.values<double>();
  return std::inner_product(left.begin(), left.end(), right.begin(), 0.0);
}

TEST(ExpertsTest, BackwardAgreesWithFiniteDifferences) {
  const Example example = make_example(DType::kFloat64, DType::kFloat64);
  const Tensor grad = random_tensor(kRows, kHidden, 5);
  const auto grads = backward(example, grad);
  const auto check = [&](const Tensor& variable, const Tensor& analytic) {
    const auto loss = [&] { return inner_product(forward(example).output, grad); };
    EXPECT_TRUE(near(finite_differences(variable, loss), analytic, 1e-8));
  };
  check(example.input.tokens.hidden, grads.tokens.hidden);
  check(example.input.tokens.probs, grads.tokens.probs);
  check(example.weights.fc1, grads.weights.fc1);
  check(example.weights.fc2, grads.weights.fc2);
}

TEST(ExpertsTest, AnExpertWithoutTokensHasZeroGradient) {
  const auto grads =
      backward(make_example(DType::kFloat64, DType::kFloat64), random_tensor(kRows, kHidden, 5));
  for (const double value : grads.weights.fc1.value().rows(1, 2).values<double>()) EXPECT_EQ(value, 0);
  for (const double value : grads.weights.fc2.value().rows(1, 2).values<double>()) EXPECT_EQ(value, 0);
}

TEST(ExpertsTest, NoTokensAtAllAreNormal) {
  Example example = make_example(DType::kFloat32, DType::kFloat32);
  example.input = {.tokens = {.hidden = Tensor::empty({0, kHidden}, DType::kFloat32),
                              .probs = Tensor::empty({0}, DType::kFloat32)},
                   .tokens_per_expert = {0, 0, 0}};
  const auto grads = backward(example, Tensor::empty({0, kHidden}, DType::kFloat32));
  for (const float value : grads.weights.fc1.value().values<float>()) EXPECT_EQ(value, 0);
}

TEST(ExpertsTest, Bf16RowsAreComputedInFp32AndRoundedOnce) {
  const Example narrow = make_example(DType::kBFloat16, DType::kFloat32);
  Example wide = narrow;
  wide.input.tokens.hidden = cast(narrow.input.tokens.hidden, DType::kFloat32);
  const Tensor grad = cast(random_tensor(kRows, kHidden, 5), DType::kBFloat16);
  EXPECT_TRUE(near(rows_of(cast(forward(wide).output, DType::kBFloat16)), forward(narrow).output, 0));
  const auto narrow_grads = backward(narrow, grad), wide_grads = backward(wide, cast(grad, DType::kFloat32));
  EXPECT_TRUE(near(rows_of(cast(wide_grads.tokens.hidden, DType::kBFloat16)), narrow_grads.tokens.hidden, 0));
  EXPECT_TRUE(near(rows_of(wide_grads.weights.fc1), narrow_grads.weights.fc1, 0));
}

TEST(ExpertsTest, OutputGoesIntoTheMemoryThatWasGiven) {
  const Example example = make_example(DType::kFloat32, DType::kFloat32);
  const Tensor out = Tensor::empty({kRows, kHidden}, DType::kFloat32);
  EXPECT_EQ(experts_forward(example.weights, example.input, out).output.data(), out.data());
}

TEST(ExpertsTest, ArgumentsThatDoNotFitAreNamed) {
  const Example good = make_example(DType::kFloat32, DType::kFloat32);
  const auto reject = [&](const std::function<void(Example&)>& spoil) {
    Example example = good;
    spoil(example);
    return rejected_argument([&] { forward(example); });
  };
  EXPECT_EQ(reject([](Example& e) { e.weights.fc1 = cast(e.weights.fc1, DType::kFloat64); }), "fc1");
  EXPECT_EQ(reject([](Example& e) { e.weights.fc2 = e.weights.fc2.rows(0, 2); }), "fc2");
  EXPECT_EQ(reject([](Example& e) { e.input.tokens.probs = e.input.tokens.probs.rows(0, 6); }), "probs");
  EXPECT_EQ(reject([](Example& e) { e.input.tokens_per_expert = {4, 0, 2}; }), "tokens_per_expert");
  EXPECT_EQ(reject([](Example& e) { e.input.tokens.hidden = cast(e.input.tokens.hidden, DType::kFloat64); }),
            "fc2");
  EXPECT_EQ(rejected_argument([&] { experts_forward(good.weights, good.input, good.weights.fc1); }), "out");
  EXPECT_EQ(reject([](Example& e) {
              Tensor& x = e.input.tokens.hidden;  // every row is the first
              x = Tensor::from_memory(x.data(), x.shape(), {0, 1}, x.dtype(), x.owner());
            }),
            "hidden");
}

}  // namespace
}  // namespace flexep::moe
