// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <bit>
#include <limits>

#include "flexep/reference.h"
#include "support/tensors.h"

namespace flexep::reference {
namespace {

using flexep::testing::tensor_of;
using flexep::testing::values_of;
using Bits = std::uint16_t;

/// One token of rank 0 with these ids, over three ranks of two experts each; one column.
std::vector<RankInput> one_token(const std::vector<std::int64_t>& ids) {
  const auto num_topk = static_cast<std::int64_t>(ids.size());
  const RankInput nothing{.x = Tensor::empty({0, 1}, DType::kFloat32),
                          .topk_idx = Tensor::empty({0, num_topk}, DType::kInt64)};
  return {{.x = Tensor::zeros({1, 1}, DType::kFloat32), .topk_idx = tensor_of({1, num_topk}, ids)},
          nothing,
          nothing};
}

/// What rank 0's token becomes when the ranks supply these rows.
template <typename T>
T combined(const std::vector<std::int64_t>& ids, const std::vector<std::vector<T>>& rows_by_rank,
           const DispatchOptions& dispatch_options, const CombineOptions& options = {}) {
  std::vector<CombineInput> rows;
  for (const auto& values : rows_by_rank) {
    rows.push_back({.x = tensor_of({static_cast<std::int64_t>(values.size()), 1}, values)});
  }
  return combine(one_token(ids), dispatch_options, rows, options)[0].x.template data<T>()[0];
}

constexpr DispatchOptions kCompact{.num_experts = 6};
constexpr DispatchOptions kExpanded{.num_experts = 6, .do_expand = true};
constexpr CombineOptions kSingleReduction{.allow_multiple_reduction = false};

// 2^24 + 1 is not an fp32, so the order of 2^24, 1 and -2^24 decides whether the 1 survives.
constexpr float kBig = 16777216.0f;

TEST(ReferenceCombineTest, CompactRowsAreSummedInTheOrderOfColumnsNotOfRanks) {
  EXPECT_EQ(combined<float>({0, 2, 4}, {{kBig}, {-kBig}, {1}}, kCompact), 1);
  EXPECT_EQ(combined<float>({0, 4, 2}, {{kBig}, {-kBig}, {1}}, kCompact), 0);
}

TEST(ReferenceCombineTest, ARanksLargestColumnDecidesItsPlace) {
  // Rank 1 has the first column and the last.
  EXPECT_EQ(combined<float>({2, 0, 4, 3}, {{kBig}, {-kBig}, {1}}, kCompact), 0);
  EXPECT_EQ(combined<float>({2, 0, 4, 3}, {{kBig}, {-kBig, 0}, {1}}, kExpanded), 0);
}

TEST(ReferenceCombineTest, ExpandedRowsAreSummedByOwnerFirst) {
  EXPECT_EQ(combined<float>({0, 2, 1}, {{kBig, -kBig}, {1}, {}}, kExpanded), 1);
}

TEST(ReferenceCombineTest, WithoutMultipleReductionAllColumnsAreSummedInOrder) {
  EXPECT_EQ(combined<float>({0, 2, 1}, {{kBig, -kBig}, {1}, {}}, kExpanded, kSingleReduction), 0);
}

TEST(ReferenceCombineTest, EachStageRoundsToTheElementType) {
  // 2^-8 is half a unit in the last place of the bf16 number 1: alone it is rounded away, twice it is not.
  const BFloat16 one(1.0f), half_unit(0.00390625f);
  EXPECT_EQ(combined<BFloat16>({0, 1, 2}, {{one, half_unit}, {half_unit}, {}}, kExpanded).bits, 0x3F80);
  EXPECT_EQ(
      combined<BFloat16>({0, 1, 2}, {{one, half_unit}, {half_unit}, {}}, kExpanded, kSingleReduction).bits,
      0x3F81);
}

TEST(ReferenceCombineTest, DoublesAreSummedAsDoubles) {
  EXPECT_EQ(combined<double>({0, 4, 2}, {{kBig}, {-kBig}, {1}}, kCompact), 1);
}

TEST(ReferenceCombineTest, ALoneRowIsCopiedBitForBit) {
  for (const Bits bits : {Bits{0x8000}, Bits{0x7F81}, Bits{0xFFFF}, Bits{0x0001}}) {
    const auto row = BFloat16::from_bits(bits);
    EXPECT_EQ(combined<BFloat16>({-1, 3}, {{}, {row}, {}}, kCompact).bits, bits);
    EXPECT_EQ(combined<BFloat16>({-1, 3}, {{}, {row}, {}}, kExpanded).bits, bits);
    EXPECT_EQ(combined<BFloat16>({-1, 3}, {{}, {row}, {}}, kExpanded, kSingleReduction).bits, bits);
  }
}

TEST(ReferenceCombineTest, ASumStartsAtPlusZero) {
  EXPECT_EQ(std::bit_cast<std::uint32_t>(combined<float>({0, 2}, {{-0.0f}, {-0.0f}, {}}, kCompact)), 0u);
}

TEST(ReferenceCombineTest, TheNanOfASumIsTheCanonicalQuietNan) {
  const float nan = std::bit_cast<float>(0xFFABCDEFu);
  const float infinity = std::numeric_limits<float>::infinity();
  const auto nan_bits = [](float a, float b) {
    return std::bit_cast<std::uint32_t>(combined<float>({0, 2}, {{a}, {b}, {}}, kCompact));
  };
  EXPECT_EQ(nan_bits(nan, 1), 0x7FC00000u);
  EXPECT_EQ(nan_bits(infinity, -infinity), 0x7FC00000u);
  const auto row = BFloat16::from_bits(0xFF81);
  EXPECT_EQ(combined<BFloat16>({0, 2}, {{row}, {row}, {}}, kCompact).bits, 0x7FC0);
}

TEST(ReferenceCombineTest, ATokenThatWentNowhereIsZero) {
  EXPECT_EQ(combined<float>({-1, -1}, {{}, {}, {}}, kCompact), 0);
  EXPECT_EQ(combined<float>({-1, -1}, {{}, {}, {}}, kExpanded), 0);
}

TEST(ReferenceCombineTest, GapRowsAreNotRead) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  DispatchOptions aligned = kExpanded;
  aligned.expert_alignment = 2;
  EXPECT_EQ(combined<float>({0, 1}, {{5, nan, 6, nan}, {}, {}}, aligned), 11);
}

TEST(ReferenceCombineTest, WeightsComeBackFromTheOwnerOfEachColumn) {
  const auto inputs = one_token({2, -1, 0});
  const Tensor row = Tensor::zeros({1, 1}, DType::kFloat32), none = Tensor::empty({0, 1}, DType::kFloat32);
  const std::vector<CombineInput> compact = {
      {.x = row, .topk_weights = tensor_of<float>({1, 3}, {90, 91, .5f})},
      {.x = row, .topk_weights = tensor_of<float>({1, 3}, {.25f, 92, 93})},
      {.x = none, .topk_weights = Tensor::empty({0, 3}, DType::kFloat32)}};
  EXPECT_EQ(values_of<float>(combine(inputs, kCompact, compact, {})[0].topk_weights),
            (std::vector<float>{.25f, 0, .5f}));

  const std::vector<CombineInput> expanded = {
      {.x = row, .topk_weights = tensor_of<float>({1}, {.5f})},
      {.x = row, .topk_weights = tensor_of<float>({1}, {.25f})},
      {.x = none, .topk_weights = Tensor::empty({0}, DType::kFloat32)}};
  EXPECT_EQ(values_of<float>(combine(inputs, kExpanded, expanded, {})[0].topk_weights),
            (std::vector<float>{.25f, 0, .5f}));
}

/// What rank 0's token becomes with these biases when ranks 0 and 1 supply a row each, and rank 2 none.
float biased(const std::vector<float>& biases, float row0, float row1, const DispatchOptions& options) {
  std::vector<CombineInput> rows = {{.x = tensor_of<float>({1, 1}, {row0})},
                                    {.x = tensor_of<float>({1, 1}, {row1})},
                                    {.x = Tensor::empty({0, 1}, DType::kFloat32)}};
  for (std::size_t i = 0; i < biases.size(); ++i) rows[0].bias[i] = tensor_of<float>({1, 1}, {biases[i]});
  return combine(one_token({0, 2}), options, rows, {})[0].x.data<float>()[0];
}

TEST(ReferenceCombineTest, BiasesAreSummedBeforeTheRows) {
  for (const auto& layout : {kCompact, kExpanded}) {
    EXPECT_EQ(biased({kBig}, 1, -kBig, layout), 0);     // rows first: 1
    EXPECT_EQ(biased({kBig, -kBig}, 1, 2, layout), 3);  // rows first: 4
  }
}

/// The bits of a token that no rank supplies a row for.
std::uint32_t bits_of_biases(const std::vector<float>& biases) {
  std::vector<CombineInput> rows(3, {.x = Tensor::empty({0, 1}, DType::kFloat32)});
  for (std::size_t i = 0; i < biases.size(); ++i) rows[0].bias[i] = tensor_of<float>({1, 1}, {biases[i]});
  return std::bit_cast<std::uint32_t>(combine(one_token({-1, -1}), kCompact, rows, {})[0].x.data<float>()[0]);
}

TEST(ReferenceCombineTest, ATokenThatWentNowhereIsItsBiases) {
  EXPECT_EQ(bits_of_biases({std::bit_cast<float>(0xFFABCDEFu)}), 0xFFABCDEFu);  // a copy
  EXPECT_EQ(bits_of_biases({-0.0f}), 0x80000000u);
  EXPECT_EQ(bits_of_biases({1.5f, 2.25f}), std::bit_cast<std::uint32_t>(3.75f));
  EXPECT_EQ(bits_of_biases({-0.0f, -0.0f}), 0u);  // a sum starts at +0
}

TEST(ReferenceCombineTest, WhatALimitDroppedIsNeitherSummedNorWeighed) {
  // One pair for each of rank 0's two experts would need two rows, so that it receives none.
  const auto none = Tensor::empty({0, 1}, DType::kFloat32), no_weights = Tensor::empty({0}, DType::kFloat32);
  DispatchOptions limited = kExpanded;
  limited.max_recv_tokens = {1, 0, 0};
  const std::vector<CombineInput> rows = {
      {.x = none, .topk_weights = no_weights},
      {.x = tensor_of<float>({1, 1}, {7}), .topk_weights = tensor_of<float>({1}, {.5f})},
      {.x = none, .topk_weights = no_weights}};
  const auto output = combine(one_token({0, 1, 2}), limited, rows, {})[0];
  EXPECT_EQ(values_of<float>(output.x), (std::vector<float>{7}));
  EXPECT_EQ(values_of<float>(output.topk_weights), (std::vector<float>{0, 0, .5f}));
}

TEST(ReferenceCombineTest, HiddenMayDifferFromTheDispatchs) {
  const std::vector<CombineInput> rows = {{.x = tensor_of<float>({1, 3}, {1, 2, 3})},
                                          {.x = tensor_of<float>({1, 3}, {10, 20, 30})},
                                          {.x = Tensor::empty({0, 3}, DType::kFloat32)}};
  EXPECT_EQ(values_of<float>(combine(one_token({0, 2}), kCompact, rows, {})[0].x),
            (std::vector<float>{11, 22, 33}));
}

}  // namespace
}  // namespace flexep::reference
