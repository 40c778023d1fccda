// SPDX-License-Identifier: Apache-2.0
//
// x86 only: sets the flush-to-zero mode that -ffast-math programs and some numerical libraries run in.
#include <gtest/gtest.h>
#include <immintrin.h>

#include <array>

#include "kernels/cpu/reduce_rows.h"

namespace flexep::cpu {
namespace {

constexpr unsigned kFlushToZero = 0x8000;
constexpr unsigned kDenormalsAreZero = 0x0040;

TEST(FlushToZeroTest, SubnormalsAreKeptAndTheModeOfTheProgramIsLeftAlone) {
  const std::array<std::uint32_t, 32> subnormals = {1, 1, 1, 1};
  const std::array sources = {reinterpret_cast<const std::byte*>(subnormals.data()),
                              reinterpret_cast<const std::byte*>(subnormals.data())};
  const std::array group_begin = {std::int64_t{0}, std::int64_t{1}};
  const std::array source_begin = {std::int64_t{0}, std::int64_t{2}};
  std::array<std::uint32_t, 32> sum = {};

  const unsigned before = _mm_getcsr();
  const unsigned flushing = before | kFlushToZero | kDenormalsAreZero;
  _mm_setcsr(flushing);
  reduce_rows({.dtype = DType::kFloat32,
               .num_columns = sum.size(),
               .group_begin = group_begin,
               .source_begin = source_begin,
               .sources = sources,
               .out = reinterpret_cast<std::byte*>(sum.data())},
              StoreMode::kCached);
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);

  EXPECT_EQ(sum[0], 2u);
  EXPECT_EQ(sum[3], 2u);
  EXPECT_EQ(after, flushing);
}

}  // namespace
}  // namespace flexep::cpu
