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

}  // namespace
}  // namespace flexep
