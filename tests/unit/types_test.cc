// SPDX-License-Identifier: Apache-2.0
#include "flexep/types.h"

#include <gtest/gtest.h>

#include <bit>
#include <limits>

namespace flexep {
namespace {

std::uint16_t bits_of(float value) {
  return BFloat16(value).bits;
}

TEST(BFloat16Test, TiesGoToTheEvenNeighbour) {
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x3F808000u)), 0x3F80);  // half way, lower neighbour even
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x3F818000u)), 0x3F82);  // half way, upper neighbour even
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x3F808001u)), 0x3F81);  // just above half way
}

TEST(BFloat16Test, SubnormalsAreKept) {
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x00010000u)), 0x0001);
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x80010000u)), 0x8001);
}

TEST(BFloat16Test, OverflowRoundsToInfinity) {
  EXPECT_EQ(bits_of(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(bits_of(std::numeric_limits<float>::lowest()), 0xFF80);
}

TEST(BFloat16Test, EveryNanBecomesTheCanonicalQuietNan) {
  EXPECT_EQ(bits_of(std::bit_cast<float>(0xFFFFFFFFu)), 0x7FC0);
  EXPECT_EQ(bits_of(std::bit_cast<float>(0x7F800001u)), 0x7FC0);
}

TEST(Float16Test, EveryValueSurvivesTheWayToFloatAndBack) {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 value = Float16::from_bits(static_cast<std::uint16_t>(bits));
    const bool is_nan = (bits & 0x7FFFu) > 0x7C00u;
    EXPECT_EQ(Float16(static_cast<float>(value)).bits, is_nan ? 0x7E00u : bits);
  }
}

TEST(Float16Test, RoundsToNearestEvenThroughoutItsRange) {
  EXPECT_EQ(Float16(1.0f + 0x1p-11f).bits, 0x3C00);      // half way, lower neighbour even
  EXPECT_EQ(Float16(1.0f + 3 * 0x1p-11f).bits, 0x3C02);  // half way, upper neighbour even
  EXPECT_EQ(Float16(65519.0f).bits, 0x7BFF);             // the largest finite number
  EXPECT_EQ(Float16(65520.0f).bits, 0x7C00);             // half way to 65536: infinity
  EXPECT_EQ(Float16(-1e30f).bits, 0xFC00);
  EXPECT_EQ(Float16(0x1p-25f).bits, 0x0000);             // half of the smallest: even is zero
  EXPECT_EQ(Float16(-0x1.000002p-25f).bits, 0x8001);     // just above it
  EXPECT_EQ(Float16(3 * 0x1p-25f).bits, 0x0002);         // 1.5 of the smallest
  EXPECT_EQ(Float16(0x1p-14f - 0x1p-25f).bits, 0x0400);  // rounds up into the normal numbers
  EXPECT_EQ(Float16(std::numeric_limits<float>::quiet_NaN()).bits, 0x7E00);
}

}  // namespace
}  // namespace flexep
