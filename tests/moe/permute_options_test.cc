// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "finite_differences.h"
#include "flexep/moe/permute.h"
#include "matrices.h"
#include "support/tensors.h"

/// What permute does beyond dropless rows: bounds, capacity, padding; and its relatives.
namespace flexep::moe {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using testing::finite_differences;
using testing::near;
using testing::random_tensor;
using testing::rejected_argument;
using testing::rows_of;
using Ints = std::vector<std::int32_t>;

constexpr std::int64_t kRows = 5, kExperts = 3, kHidden = 2;

// Expert 0 gets rows 1, 3, 4; expert 1 none; expert 2 rows 0, 4.
Tensor example_map() {
  return tensor_of<std::int32_t>({kRows, kExperts}, {0, 0, 1, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 1});
}

Tokens example_tokens() {
  return {.hidden = random_tensor(kRows, kHidden, 1), .probs = random_tensor(kRows, kExperts, 2)};
}

PermuteResult permuted_with(const PermuteOptions& options) {
  return permute(example_tokens(), example_map(), options);
}

Ints indices_of(const PermuteResult& result) {
  return values_of<std::int32_t>(result.permutation.sorted_indices);
}

double inner_product(const Tensor& a, const Tensor& b) {
  const auto left = a.values<double>(), right = b.values<double>();
  return std::inner_product(left.begin(), left.end(), right.begin(), 0.0);
}

void poison(const Tensor& rows, std::int64_t row) {
  for (double& value : rows.rows(row, row + 1).values<double>())
    value = std::numeric_limits<double>::quiet_NaN();
}

TEST(PermuteOptionsTest, AlignmentAppendsZeroRowsToEachExpert) {
  const auto result = permuted_with({.align_size = 4});
  EXPECT_EQ(indices_of(result), (Ints{1, 3, 4, -1, 0, 4, -1, -1}));
  EXPECT_EQ(result.permutation.tokens_per_expert, (Ints{4, 0, 4}));
  EXPECT_EQ(result.permutation.pad_offsets, (Ints{0, 1, 1}));
  for (const std::int64_t row : {3, 6, 7}) {
    EXPECT_EQ(values_of<double>(result.tokens.hidden.rows(row, row + 1)), (std::vector<double>{0, 0}));
    EXPECT_EQ(result.tokens.probs.data<double>()[row], 0);
  }
}

TEST(PermuteOptionsTest, PoisonInPaddingReachesNothing) {
  const auto plain = permuted_with({}), padded = permuted_with({.align_size = 4});
  const Tensor rows = padded.tokens.hidden, probs = padded.tokens.probs;
  for (const std::int64_t row : {3, 6, 7}) {
    poison(rows, row);
    probs.data<double>()[row] = std::numeric_limits<double>::quiet_NaN();
  }
  EXPECT_TRUE(near(rows_of(unpermute(plain.tokens.hidden, plain.permutation)),
                   unpermute(rows, padded.permutation), 0));
  const auto expected =
      permute_backward({.hidden = plain.tokens.hidden, .probs = plain.tokens.probs}, plain.permutation);
  const auto got = permute_backward({.hidden = rows, .probs = probs}, padded.permutation);
  EXPECT_TRUE(near(rows_of(expected.hidden), got.hidden, 0));
  EXPECT_TRUE(near(rows_of(expected.probs), got.probs, 0));
  EXPECT_EQ(values_of<double>(
                unpermute_backward(random_tensor(kRows, kHidden, 3), padded.permutation).value().rows(3, 4)),
            (std::vector<double>{0, 0}));
}

TEST(PermuteOptionsTest, FewerRowsLeaveOutTheLastAndMoreTakeUnroutedPairsInOrder) {
  const auto fewer = permuted_with({.num_out_tokens = 4}), more = permuted_with({.num_out_tokens = 8});
  EXPECT_EQ(indices_of(fewer), (Ints{1, 3, 4, 0}));
  EXPECT_EQ(fewer.permutation.tokens_per_expert, (Ints{3, 0, 1}));
  EXPECT_EQ(indices_of(more), (Ints{1, 3, 4, 0, 4, 0, 2, 0}));
  EXPECT_EQ(values_of<std::int32_t>(more.permutation.sorted_experts), (Ints{0, 0, 0, 2, 2, 0, 0, 1}));
  EXPECT_EQ(more.permutation.tokens_per_expert, (Ints{3, 0, 2}));
  EXPECT_EQ(more.tokens.probs.data<double>()[7], example_tokens().probs.data<double>()[1]);
}

TEST(PermuteOptionsTest, DropAndPadGivesEveryExpertItsCapacity) {
  const auto result = permuted_with({.num_out_tokens = 6, .drop_and_pad = true});
  EXPECT_EQ(indices_of(result), (Ints{1, 3, 0, 1, 0, 4}));
  EXPECT_EQ(result.permutation.tokens_per_expert, (Ints{2, 2, 2}));
  const auto wide = permuted_with({.num_out_tokens = 9, .drop_and_pad = true});
  EXPECT_EQ(indices_of(wide), (Ints{1, 3, 4, 0, 1, 2, 0, 4, 1}));
}

TEST(PermuteOptionsTest, BackwardIsTheTransposeWithEveryOption) {
  for (const PermuteOptions& options :
       {PermuteOptions{.align_size = 16}, PermuteOptions{.num_out_tokens = 4},
        PermuteOptions{.num_out_tokens = 9}, PermuteOptions{.num_out_tokens = 6, .drop_and_pad = true}}) {
    const Tokens tokens = example_tokens();
    const auto [permuted, permutation] = permuted_with(options);
    const std::int64_t n = permuted.hidden.size(0);
    const TokenGradients grads{.hidden = random_tensor(n, kHidden, 3),
                               .probs = random_tensor(1, n, 4).reshape({n})};
    const auto back = permute_backward(grads, permutation);
    EXPECT_EQ(inner_product(permuted.hidden, grads.hidden), inner_product(tokens.hidden, back.hidden));
    EXPECT_EQ(inner_product(permuted.probs, grads.probs), inner_product(tokens.probs, back.probs));
  }
}

TEST(PermuteOptionsTest, EveryFloatingTypeIsMoved) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    const Tensor hidden = Tensor::zeros({kRows, kHidden}, dtype);
    const auto result = permute({.hidden = hidden, .probs = example_tokens().probs}, example_map());
    EXPECT_EQ(unpermute(result.tokens.hidden, result.permutation).dtype(), dtype);
  }
}

TEST(PermuteOptionsTest, OptionsThatDoNotFitAreNamed) {
  const auto reject = [](const PermuteOptions& options) {
    return rejected_argument([&] { permuted_with(options); });
  };
  EXPECT_EQ(reject({.num_out_tokens = -1}), "num_out_tokens");
  EXPECT_EQ(reject({.drop_and_pad = true}), "num_out_tokens");
  EXPECT_EQ(reject({.align_size = -1}), "align_size");
  EXPECT_EQ(reject({.num_out_tokens = 4, .align_size = 16}), "align_size");
}

TEST(WeightedUnpermuteTest, SumsCopiesTimesTheirProbs) {
  const auto [permuted, permutation] = permuted_with({});
  const Tensor probs = random_tensor(kRows, kExperts, 5);
  testing::Matrix expected(kRows, testing::Row(kHidden));
  const Ints sources = values_of<std::int32_t>(permutation.sorted_indices);
  const Ints experts = values_of<std::int32_t>(permutation.sorted_experts);
  for (std::size_t i = 0; i < sources.size(); ++i)
    for (std::size_t h = 0; h < kHidden; ++h)
      expected[static_cast<std::size_t>(sources[i])][h] +=
          probs.data<double>()[sources[i] * kExperts + experts[i]] * rows_of(permuted.hidden)[i][h];
  EXPECT_TRUE(near(expected, unpermute({.hidden = permuted.hidden, .probs = probs}, permutation), 0));
}

TEST(WeightedUnpermuteTest, GradientsAgreeWithFiniteDifferences) {
  const auto [permuted, permutation] = permuted_with({.align_size = 4});
  const Tokens input{.hidden = permuted.hidden, .probs = random_tensor(kRows, kExperts, 5)};
  const Tensor grad = random_tensor(kRows, kHidden, 6);
  const auto grads = unpermute_backward(grad, input, permutation);
  const auto loss = [&, &p = permutation] { return inner_product(unpermute(input, p), grad); };
  EXPECT_TRUE(near(finite_differences(input.hidden, loss), grads.hidden, 1e-9));
  EXPECT_TRUE(near(finite_differences(input.probs, loss), grads.probs, 1e-9));
}

TEST(WeightedUnpermuteTest, NarrowRowsAreSummedWideAndRoundedOnce) {
  // 256 + 1 is 256 in bf16, but 256 + 1 + 1 is not.
  const std::vector<BFloat16> rows{BFloat16(256.0f), BFloat16(1.0f), BFloat16(1.0f)};
  const Permutation permutation{.sorted_indices = tensor_of<std::int32_t>({3}, {0, 0, 0}),
                                .sorted_experts = tensor_of<std::int32_t>({3}, {0, 1, 2}),
                                .tokens_per_expert = {1, 1, 1},
                                .num_rows = 1};
  const Tensor sum =
      unpermute({.hidden = tensor_of<BFloat16>({3, 1}, rows), .probs = tensor_of<float>({1, 3}, {1, 1, 1})},
                permutation);
  EXPECT_EQ(static_cast<float>(sum.data<BFloat16>()[0]), 258.0f);
}

TEST(WeightedUnpermuteTest, ArgumentsThatDoNotFitAreNamed) {
  const auto [permuted, permutation] = permuted_with({});
  const Tensor probs = random_tensor(kRows, kExperts, 5);
  const auto reject = [&p = permutation](const Tensor& hidden, const Tensor& all_probs) {
    return rejected_argument([&] { unpermute({.hidden = hidden, .probs = all_probs}, p); });
  };
  EXPECT_EQ(reject(probs, probs), "");  // as many rows as pairs
  EXPECT_EQ(reject(probs.rows(0, 4), probs), "permuted");
  EXPECT_EQ(reject(permuted.hidden, probs.rows(0, 4)), "probs");
}

TEST(SortChunksTest, ChunksAreConcatenatedInTheGivenOrder) {
  const Tensor rows = tensor_of<std::int32_t>({6, 1}, {0, 1, 2, 3, 4, 5});
  const ChunkOrder chunks{.split_sizes = {2, 0, 1, 3}, .order = {3, 1, 0, 2}};
  const Tensor sorted = sort_chunks_by_idxs(rows, chunks);
  EXPECT_EQ(values_of<std::int32_t>(sorted), (Ints{3, 4, 5, 0, 1, 2}));
  EXPECT_EQ(chunks.inverse().split_sizes, (std::vector<std::int64_t>{3, 0, 2, 1}));
  EXPECT_EQ(values_of<std::int32_t>(sort_chunks_by_idxs_backward(sorted, chunks).value()),
            values_of<std::int32_t>(rows));
  EXPECT_EQ(values_of<std::int32_t>(sort_chunks_by_idxs(sorted, chunks.inverse())),
            values_of<std::int32_t>(rows));
}

TEST(SortChunksTest, ProbsMoveWithTheirRows) {
  const Tokens tokens{.hidden = random_tensor(4, kHidden, 1), .probs = random_tensor(1, 4, 2).reshape({4})};
  const ChunkOrder chunks{.split_sizes = {1, 3}, .order = {1, 0}};
  const Tokens sorted = sort_chunks_by_idxs(tokens, chunks);
  EXPECT_EQ(sorted.probs.data<double>()[3], tokens.probs.data<double>()[0]);
  EXPECT_TRUE(near(rows_of(tokens.hidden.rows(0, 1)), sorted.hidden.rows(3, 4), 0));
  const auto back =
      sort_chunks_by_idxs_backward(TokenGradients{.hidden = sorted.hidden, .probs = sorted.probs}, chunks);
  EXPECT_TRUE(near(rows_of(tokens.hidden), back.hidden, 0));
  EXPECT_EQ(values_of<double>(tokens.probs), values_of<double>(back.probs.value()));
}

TEST(SortChunksTest, ArgumentsThatDoNotFitAreNamed) {
  const Tensor rows = random_tensor(4, kHidden, 1);
  const auto reject = [&](const ChunkOrder& chunks, const Tensor& out = {}) {
    return rejected_argument([&] { sort_chunks_by_idxs(rows, chunks, out); });
  };
  EXPECT_EQ(reject({.split_sizes = {1, 2}, .order = {0, 1}}), "split_sizes");
  EXPECT_EQ(reject({.split_sizes = {5, -1}, .order = {0, 1}}), "split_sizes");
  EXPECT_EQ(reject({.split_sizes = {1, 3}, .order = {0, 0}}), "order");
  EXPECT_EQ(reject({.split_sizes = {1, 3}, .order = {0, 1}}, random_tensor(3, kHidden, 1)), "out");
}

TEST(PadRoutingMapTest, TheFirstZerosBecomeOnesUpToTheMultiple) {
  const Tensor map = example_map();
  EXPECT_EQ(values_of<std::int32_t>(pad_routing_map(map, 4)),
            (Ints{1, 0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1, 0, 1}));
  EXPECT_EQ(values_of<std::int32_t>(map), values_of<std::int32_t>(example_map()));
}

TEST(PadRoutingMapTest, WithTooFewRowsAllBecomeOnes) {
  const Tensor padded = pad_routing_map(tensor_of<std::int32_t>({2, 2}, {1, 0, 0, 0}), 16);
  EXPECT_EQ(values_of<std::int32_t>(padded), (Ints{1, 0, 1, 0}));
}

TEST(PadRoutingMapTest, ArgumentsThatDoNotFitAreNamed) {
  EXPECT_EQ(rejected_argument([] { pad_routing_map(random_tensor(2, 2, 1), 16); }), "routing_map");
  EXPECT_EQ(rejected_argument([] { pad_routing_map(example_map(), 0); }), "align_size");
}

}  // namespace
}  // namespace flexep::moe
