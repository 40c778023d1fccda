// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/permute.h"

#include <gtest/gtest.h>

#include "matrices.h"
#include "support/tensors.h"

namespace flexep::moe {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using testing::near;
using testing::random_matrix;
using testing::random_tensor;
using testing::rejected_argument;

constexpr std::int64_t kRows = 7, kExperts = 4, kHidden = 3;

// Row 3 goes nowhere, expert 2 gets nothing.
Tensor example_map() {
  return tensor_of<std::int32_t>({kRows, kExperts}, {1, 0, 0, 1,  //
                                                     0, 1, 0, 0,  //
                                                     1, 1, 0, 1,  //
                                                     0, 0, 0, 0,  //
                                                     0, 1, 0, 0,  //
                                                     1, 0, 0, 0,  //
                                                     0, 0, 0, 1});
}

double inner_product(const Tensor& a, const Tensor& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.values<double>().size(); ++i)
    sum += a.values<double>()[i] * b.values<double>()[i];
  return sum;
}

TEST(PermuteTest, RowsAreOrderedByExpertThenBySourceRow) {
  const auto result =
      permute({.hidden = random_tensor(kRows, kHidden, 1), .probs = random_tensor(kRows, kExperts, 2)},
              example_map());
  EXPECT_EQ(values_of<std::int32_t>(result.permutation.sorted_indices),
            (std::vector<std::int32_t>{0, 2, 5, 1, 2, 4, 0, 2, 6}));
  EXPECT_EQ(result.permutation.tokens_per_expert, (std::vector<std::int32_t>{3, 3, 0, 3}));
}

TEST(PermuteTest, AgreesWithTheReferenceBitForBit) {
  const auto hidden = random_tensor(kRows, kHidden, 1), probs = random_tensor(kRows, kExperts, 2);
  const auto result = permute({.hidden = hidden, .probs = probs}, example_map());
  const auto expected = reference::permute(reference::to_matrix(hidden), reference::to_matrix(example_map()),
                                           reference::to_matrix(probs));
  EXPECT_TRUE(near(expected.rows, result.tokens.hidden, 0));
  EXPECT_EQ(values_of<double>(result.tokens.probs), expected.probs);
  EXPECT_TRUE(near(reference::unpermute(expected.rows, expected.sorted_indices, kRows),
                   unpermute(result.tokens.hidden, result.permutation), 0));
}

TEST(PermuteTest, BackwardIsTheTransposeOfForward) {
  const Tokens tokens{.hidden = random_tensor(kRows, kHidden, 1), .probs = random_tensor(kRows, kExperts, 2)};
  const auto [permuted, permutation] = permute(tokens, example_map());
  const TokenGradients grads{.hidden = random_tensor(9, kHidden, 3),
                             .probs = random_tensor(1, 9, 4).reshape({9})};
  const auto back = permute_backward(grads, permutation);
  EXPECT_EQ(inner_product(permuted.hidden, grads.hidden), inner_product(tokens.hidden, back.hidden));
  EXPECT_EQ(inner_product(permuted.probs, grads.probs), inner_product(tokens.probs, back.probs));

  const Tensor grad_rows = random_tensor(kRows, kHidden, 5);
  EXPECT_EQ(inner_product(unpermute(permuted.hidden, permutation), grad_rows),
            inner_product(permuted.hidden, unpermute_backward(grad_rows, permutation)));
}

TEST(PermuteTest, UnpermuteRoundsAfterEachAddition) {
  // 256 + 1 is 256 in bf16, so 256 + 1 + 1 is too: one rounding at the end would give 258.
  const std::vector<BFloat16> rows{BFloat16(256.0f), BFloat16(1.0f), BFloat16(1.0f)};
  const Permutation permutation{.sorted_indices = tensor_of<std::int32_t>({3}, {0, 0, 0}),
                                .sorted_experts = tensor_of<std::int32_t>({3}, {0, 1, 2}),
                                .tokens_per_expert = {1, 1, 1},
                                .num_rows = 1};
  const Tensor sum = unpermute(tensor_of<BFloat16>({3, 1}, rows), permutation);
  EXPECT_EQ(static_cast<float>(sum.data<BFloat16>()[0]), 256.0f);
}

TEST(PermuteTest, RowsThatWentNowhereComeBackAsZeros) {
  const Tensor out = random_tensor(kRows, kHidden, 9);
  const auto [permuted, permutation] =
      permute({.hidden = random_tensor(kRows, kHidden, 1), .probs = random_tensor(kRows, kExperts, 2)},
              example_map());
  const Tensor sums = unpermute(permuted.hidden, permutation, out);
  EXPECT_EQ(sums.data(), out.data());
  EXPECT_EQ(values_of<double>(sums.rows(3, 4)), (std::vector<double>{0, 0, 0}));
}

TEST(PermuteTest, NoRowsAreNormal) {
  const auto [permuted, permutation] = permute({.hidden = Tensor::empty({0, kHidden}, DType::kBFloat16),
                                                .probs = Tensor::empty({0, 4}, DType::kFloat32)},
                                               Tensor::empty({0, 4}, DType::kInt32));
  EXPECT_EQ(permuted.hidden.shape(), (Shape{0, kHidden}));
  EXPECT_EQ(permutation.tokens_per_expert, (std::vector<std::int32_t>{0, 0, 0, 0}));
  EXPECT_EQ(unpermute(permuted.hidden, permutation).shape(), (Shape{0, kHidden}));
}

TEST(PermuteTest, ArgumentsThatDoNotFitAreNamed) {
  const Tensor hidden = random_tensor(kRows, kHidden, 1), probs = random_tensor(kRows, kExperts, 2);
  const auto reject = [](const Tokens& tokens, const Tensor& map) {
    return rejected_argument([&] { permute(tokens, map); });
  };
  EXPECT_EQ(reject({.hidden = hidden.reshape({kRows * kHidden}), .probs = probs}, example_map()), "hidden");
  EXPECT_EQ(reject({.hidden = hidden, .probs = probs}, example_map().rows(0, 6)), "routing_map");
  EXPECT_EQ(reject({.hidden = hidden, .probs = probs}, probs), "routing_map");
  EXPECT_EQ(reject({.hidden = hidden, .probs = probs.rows(0, 6)}, example_map()), "probs");
  const auto [permuted, permutation] = permute({.hidden = hidden, .probs = probs}, example_map());
  EXPECT_EQ(rejected_argument([&, &p = permutation] { unpermute(hidden, p); }), "permuted");
  EXPECT_EQ(rejected_argument([&, &rows = permuted.hidden, &p = permutation] { unpermute(rows, p, rows); }),
            "out");
}

}  // namespace
}  // namespace flexep::moe
