// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kernels/cpu/cpu_target.h"
#include "kernels/cpu/scatter_rows.h"

namespace flexep::cpu {
namespace {

/// Runs under every instruction set that this machine has.
class ScatterRowsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { force_cpu_target(GetParam()); }
  void TearDown() override { force_cpu_target(""); }
};

/// Rows of random bytes and a memory in which every second slot is a place; slots and places drawn at random.
struct RandomScatter {
  RandomScatter(std::mt19937& random, std::size_t row_bytes, std::size_t src_offset, std::size_t dst_offset,
                bool same_alignment)
      : slot_bytes(row_bytes + (same_alignment ? 64 - row_bytes % 64 : 4)),
        source(kNumRows * row_bytes + src_offset) {
    for (auto& byte : source) byte = static_cast<std::byte>(random());
    std::size_t num_slots = 0;
    for (std::size_t row = 0; row < kNumRows; ++row) {
      num_slots += random() % 10;
      dst_begin.push_back(static_cast<std::int64_t>(num_slots));
    }
    memory.assign(num_slots * slot_bytes + 2 * 64, kUntouched);
    expected = memory;
    std::vector<std::size_t> offsets;
    const std::size_t base = (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64 + dst_offset;
    for (std::size_t slot = 0; slot < num_slots; ++slot) offsets.push_back(base + slot * slot_bytes);
    std::shuffle(offsets.begin(), offsets.end(), random);
    for (std::size_t row = 0; row < kNumRows; ++row) {
      for (auto k = static_cast<std::size_t>(dst_begin[row]);
           k < static_cast<std::size_t>(dst_begin[row + 1]); ++k) {
        dsts.push_back(memory.data() + offsets[k]);
        std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(src_offset + row * row_bytes), row_bytes,
                    expected.begin() + static_cast<std::ptrdiff_t>(offsets[k]));
      }
    }
    job = {.src = source.data() + src_offset,
           .src_stride = row_bytes,
           .row_bytes = row_bytes,
           .dst_begin = dst_begin,
           .dsts = dsts};
  }

  static constexpr std::size_t kNumRows = 5;
  static constexpr std::byte kUntouched{0xEE};

  std::size_t slot_bytes;
  std::vector<std::byte> source;
  std::vector<std::int64_t> dst_begin = {0};
  std::vector<std::byte> memory;
  std::vector<std::byte> expected;
  std::vector<std::byte*> dsts;
  ScatterRows job;
};

TEST_P(ScatterRowsTest, EveryPlaceHoldsItsRowAndNothingElseIsTouched) {
  std::mt19937 random(2026);
  for (const std::size_t row_bytes : {4, 16, 60, 64, 68, 252, 256, 260, 1024, 1040, 4100, 14336}) {
    for (const std::size_t src_offset : {0, 4}) {
      for (const std::size_t dst_offset : {0, 4, 16, 60}) {
        for (const bool same_alignment : {true, false}) {
          for (const StoreMode mode : {StoreMode::kCached, StoreMode::kStreaming}) {
            RandomScatter scatter(random, row_bytes, src_offset, dst_offset, same_alignment);
            scatter_rows(scatter.job, mode);
            ASSERT_EQ(scatter.memory, scatter.expected) << "rows of " << row_bytes << " bytes from offset "
                                                        << src_offset << " to offset " << dst_offset;
          }
        }
      }
    }
  }
}

TEST_P(ScatterRowsTest, RowsMayLieApartOrRepeat) {
  constexpr std::size_t kRowBytes = 320;
  std::vector<std::byte> source(3 * 500);
  for (std::size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(i * 7);
  for (const auto& [stride, mode] : {std::pair{500, StoreMode::kCached},
                                     {500, StoreMode::kStreaming},
                                     {0, StoreMode::kCached},
                                     {0, StoreMode::kStreaming}}) {
    const auto row_stride = static_cast<std::size_t>(stride);
    std::vector<std::byte> memory(3 * kRowBytes);
    const std::vector<std::int64_t> dst_begin = {0, 1, 2, 3};
    const std::vector<std::byte*> dsts = {&memory[0], &memory[2 * kRowBytes], &memory[kRowBytes]};
    scatter_rows({.src = source.data(),
                  .src_stride = row_stride,
                  .row_bytes = kRowBytes,
                  .dst_begin = dst_begin,
                  .dsts = dsts},
                 mode);
    for (std::size_t row = 0; row < 3; ++row) {
      EXPECT_TRUE(std::equal(dsts[row], dsts[row] + kRowBytes, &source[row * row_stride])) << "row " << row;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Targets, ScatterRowsTest, ::testing::ValuesIn(available_cpu_targets()),
                         [](const auto& target) { return target.param; });

TEST(ScatterRowsTest, NoRowsIsFine) {
  scatter_rows({}, StoreMode::kStreaming);
}

}  // namespace
}  // namespace flexep::cpu
