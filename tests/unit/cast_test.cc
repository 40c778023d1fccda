// SPDX-License-Identifier: Apache-2.0
#include "flexep/cast.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "flexep/error.h"

namespace flexep {
namespace {

TEST(Float8E4M3Test, EveryValueSurvivesTheWayToFloatAndBack) {
  for (std::uint32_t bits = 0; bits < 256; ++bits) {
    const auto value = Float8E4M3::from_bits(static_cast<std::uint8_t>(bits));
    const bool is_nan = (bits & 0x7F) == 0x7F;
    EXPECT_EQ(Float8E4M3(static_cast<float>(value)).bits, bits) << "from " << static_cast<float>(value);
    EXPECT_EQ(std::isnan(static_cast<float>(value)), is_nan);
  }
}

TEST(Float8E4M3Test, RoundsToTheNearestValueTiesToEven) {
  // Against all values: no value is nearer, and where two are equally near the even one is taken.
  std::mt19937 random(7);
  for (int i = 0; i < 20000; ++i) {
    const float value =
        std::ldexp(static_cast<float>(random() % 4096) / 4096.0f, static_cast<int>(random() % 22) - 12);
    if (value > 448) continue;
    const Float8E4M3 rounded(value);
    const float error = std::fabs(static_cast<float>(rounded) - value);
    for (std::uint8_t bits = 0; bits < 0x7F; ++bits) {
      const float other = std::fabs(static_cast<float>(Float8E4M3::from_bits(bits)) - value);
      ASSERT_GE(other, error) << value;
      if (other == error && bits != rounded.bits) {
        ASSERT_EQ(rounded.bits % 2, 0) << value;
      }
    }
  }
}

TEST(Float8E4M3Test, WhatRoundsBeyondTheLargestIsNan) {
  EXPECT_EQ(Float8E4M3(448.0f).bits, 0x7E);
  EXPECT_EQ(Float8E4M3(464.0f).bits, 0x7E);
  EXPECT_EQ(Float8E4M3(464.1f).bits, 0x7F);
  EXPECT_EQ(Float8E4M3(-std::numeric_limits<float>::infinity()).bits, 0xFF);
  EXPECT_EQ(Float8E4M3(std::numeric_limits<float>::quiet_NaN()).bits & 0x7F, 0x7F);
}

Tensor random_rows(std::int64_t num_tokens, std::int64_t hidden) {
  std::mt19937 random(11);
  std::normal_distribution<float> normal;
  const Tensor x = Tensor::empty({num_tokens, hidden}, DType::kFloat32);
  for (float& value : x.values<float>()) value = normal(random);
  return x;
}

TEST(CastTest, RowsComeBackWithinTheFormatsPrecision) {
  for (const ScaleFormat format : {ScaleFormat::kFloat32, ScaleFormat::kUE8M0}) {
    for (const std::int64_t hidden : {128, 200, 1024}) {
      const Tensor x = random_rows(5, hidden);
      const QuantisedRows rows = cast_to_fp8(x, format);
      const Tensor back = cast_from_fp8(rows.x, rows.sf, DType::kFloat32);
      for (std::int64_t token = 0; token < 5; ++token) {
        for (std::int64_t i = 0; i < hidden; ++i) {
          const std::int64_t begin = i / 128 * 128;
          float largest = 0;
          for (std::int64_t k = begin; k < std::min(begin + 128, hidden); ++k) {
            largest = std::max(largest, std::fabs(x.data<float>()[token * hidden + k]));
          }
          const float expected = x.data<float>()[token * hidden + i];
          // Half a unit in the last of 4 significant bits, or half a subnormal step of the group.
          const float bound = std::max(std::fabs(expected) / 16, 2 * largest / 448 * 0x1p-10f) * 1.0001f;
          ASSERT_NEAR(back.data<float>()[token * hidden + i], expected, bound);
        }
      }
    }
  }
}

TEST(CastTest, LargestElementOfAGroupUsesTheWholeRange) {
  const Tensor x = random_rows(3, 256);
  const QuantisedRows rows = cast_to_fp8(x);
  for (int group = 0; group < 6; ++group) {
    std::uint8_t largest = 0;
    for (int i = 0; i < 128; ++i) {
      largest = std::max<std::uint8_t>(largest, rows.x.data<Float8E4M3>()[group * 128 + i].bits & 0x7F);
    }
    EXPECT_EQ(largest, 0x7E);
  }
}

TEST(CastTest, PackedFactorsArePowersOfTwoNoSmallerThanTheExactOnes) {
  const Tensor x = random_rows(2, 640);
  const Tensor exact = cast_to_fp8(x).sf;
  const Tensor packed = cast_to_fp8(x, ScaleFormat::kUE8M0).sf;
  EXPECT_EQ(exact.shape(), Shape({2, 5}));
  EXPECT_EQ(packed.shape(), Shape({2, 2}));
  for (std::int64_t token = 0; token < 2; ++token) {
    for (std::int64_t group = 0; group < 8; ++group) {
      const auto word = static_cast<std::uint32_t>(packed.data<std::int32_t>()[token * 2 + group / 4]);
      const std::uint32_t exponent = (word >> (8 * (group % 4))) & 0xFF;
      if (group >= 5) {
        EXPECT_EQ(exponent, 0u);
        continue;
      }
      const float factor = std::ldexp(1.0f, static_cast<int>(exponent) - 127);
      EXPECT_GE(factor, exact.data<float>()[token * 5 + group]);
      EXPECT_LT(factor, 2 * exact.data<float>()[token * 5 + group]);
    }
  }
}

TEST(CastTest, FactorsMayLieByColumnsAndRowsOfZerosStayZero) {
  Tensor x = random_rows(4, 256);
  std::fill_n(x.data<float>(), 256, 0.0f);
  const QuantisedRows rows = cast_to_fp8(x);
  const Tensor columns = Tensor::empty({2, 4}, DType::kFloat32);
  for (int token = 0; token < 4; ++token) {
    for (int group = 0; group < 2; ++group) {
      columns.data<float>()[group * 4 + token] = rows.sf.data<float>()[token * 2 + group];
    }
  }
  const Tensor by_columns = Tensor::from_memory(columns.data(), {4, 2}, {1, 4}, DType::kFloat32);
  const Tensor expected = cast_from_fp8(rows.x, rows.sf, DType::kBFloat16);
  const Tensor got = cast_from_fp8(rows.x, by_columns, DType::kBFloat16);
  for (std::size_t i = 0; i < 1024; ++i) {
    EXPECT_EQ(got.values<BFloat16>()[i].bits, expected.values<BFloat16>()[i].bits);
    EXPECT_TRUE(i >= 256 || got.values<BFloat16>()[i].bits == 0);
  }
}

TEST(CastTest, WrongInputsAreNamed) {
  const Tensor x = random_rows(2, 128);
  EXPECT_THROW(cast_to_fp8(Tensor()), InvalidArgument);
  EXPECT_THROW(cast_to_fp8(Tensor::zeros({2, 128}, DType::kInt64)), InvalidArgument);
  const QuantisedRows rows = cast_to_fp8(x);
  EXPECT_THROW(cast_from_fp8(x, rows.sf, DType::kFloat32), InvalidArgument);
  EXPECT_THROW(cast_from_fp8(rows.x, rows.x, DType::kFloat32), InvalidArgument);
  EXPECT_THROW(cast_from_fp8(rows.x, Tensor::zeros({2, 2}, DType::kFloat32), DType::kFloat32),
               InvalidArgument);
  EXPECT_THROW(cast_from_fp8(rows.x, rows.sf, DType::kFloat64), InvalidArgument);
}

TEST(CastTest, NoElementsTakeNoTimeAndNoMemoryHoweverManyRowsOrColumns) {
  constexpr std::int64_t kMany = std::int64_t{1} << 50;
  for (const Shape& shape : {Shape{kMany, 0}, Shape{0, kMany}}) {
    const QuantisedRows rows = cast_to_fp8(Tensor::empty(shape, DType::kFloat32));
    EXPECT_EQ(cast_from_fp8(rows.x, rows.sf, DType::kFloat32).shape(), shape);
  }
}

TEST(CastTest, NanIsTheSameOnEveryMachine) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> values{kInfinity, -kInfinity, std::copysign(std::nanf(""), -1.0f), 0};
  const QuantisedRows rows = cast_to_fp8(Tensor::from_values(std::span<const float>(values), {1, 4}));
  const auto* const x = rows.x.data<Float8E4M3>();
  EXPECT_EQ(x[0].bits, 0x7F);  // infinity times 1 / infinity
  EXPECT_EQ(x[1].bits, 0xFF);
  EXPECT_EQ(x[2].bits, 0xFF);
  const Tensor back = cast_from_fp8(rows.x, rows.sf, DType::kFloat32);
  for (const float value : back.values<float>()) EXPECT_EQ(std::bit_cast<std::uint32_t>(value), 0x7FC00000u);
}

}  // namespace
}  // namespace flexep
