// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <array>
#include <cfenv>
#include <random>

#include "flexep/error.h"
#include "kernels/cpu/cpu_target.h"
#include "kernels/cpu/reduce_rows.h"
#include "kernels_spec.h"

namespace flexep::cpu {
namespace {

template <typename T>
T value_from_bits(std::uint64_t bits) {
  T value;
  std::memcpy(static_cast<void*>(&value), &bits, sizeof(T));
  return value;
}

template <typename T>
std::vector<T> values_from_bits(const std::vector<std::uint64_t>& bits) {
  std::vector<T> values;
  for (const auto each : bits) values.push_back(value_from_bits<T>(each));
  return values;
}

/// Values at which rounding, NaN, zero or subnormal rules bite; the upper halves of the wider ones are bf16
/// specials too.
template <typename T>
std::vector<T> special_values();
template <>
std::vector<BFloat16> special_values() {
  return values_from_bits<BFloat16>({0x0000, 0x8000, 0x0001, 0x8001, 0x007F, 0x807F, 0x0080,
                                     0x3F80, 0xBF80, 0x3F81, 0x4300, 0x3B80, 0x7F7F, 0xFF7F,
                                     0x7F80, 0xFF80, 0x7FC0, 0xFFC1, 0x7F81, 0x7FFF});
}
template <>
std::vector<Float16> special_values() {
  return values_from_bits<Float16>({0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400,
                                    0x3C00, 0xBC00, 0x3C01, 0x6400, 0x1000, 0x7BFF, 0xFBFF,
                                    0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01, 0x7FFF});
}
template <>
std::vector<float> special_values() {
  return values_from_bits<float>({0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000,
                                  0x3F800000, 0xBF800000, 0x3F800001, 0x4B800000, 0x7F7FFFFF, 0xFF7FFFFF,
                                  0x7F800000, 0xFF800000, 0x7FC00000, 0xFFC12345, 0x7F800001, 0xFFFFFFFF});
}
template <>
std::vector<double> special_values() {
  return values_from_bits<double>({0, 0x8000000000000000, 1, 0x8000000000000001, 0x000FFFFFFFFFFFFF,
                                   0x3FF0000000000000, 0xBFF0000000000000, 0x3FF0000000000001,
                                   0x4340000000000000, 0x7FEFFFFFFFFFFFFF, 0xFFEFFFFFFFFFFFFF,
                                   0x7FF0000000000000, 0xFFF0000000000000, 0x7FF8000000000000,
                                   0xFFF8123456789ABC, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF});
}

/// A random reduction, with the memory that it refers to.
template <typename T>
class RandomJob {
 public:
  RandomJob(std::mt19937_64& random, std::size_t num_columns, std::size_t misalignment) : random_(random) {
    const auto specials = special_values<T>();
    const int num_rows = pick(1, 4);
    for (int row = 0; row < num_rows; ++row) add_row();
    for (std::size_t i = 0; i < num_sources_; ++i) {
      std::vector<T>& row = rows_.emplace_back(num_columns + misalignment);
      const bool is_special = pick(0, 1) == 1;
      for (T& value : row)
        value = is_special ? specials[random_() % specials.size()] : value_from_bits<T>(random_());
      sources_.push_back(reinterpret_cast<const std::byte*>(row.data() + misalignment));
    }
    out_.resize(static_cast<std::size_t>(num_rows) * num_columns + misalignment + kGuard);
    job_ = {.dtype = kDTypeOf<T>,
            .num_columns = num_columns,
            .group_begin = group_begin_,
            .source_begin = source_begin_,
            .sources = sources_,
            .out = reinterpret_cast<std::byte*>(out_.data() + misalignment)};
    misalignment_ = misalignment;
  }

  const ReduceRows& job() const { return job_; }

  /// The output rows, after making sure that nothing before or behind them was touched.
  std::vector<T> out() const {
    const auto begin = out_.begin() + static_cast<std::ptrdiff_t>(misalignment_);
    const T untouched{};
    for (std::size_t i = out_.size() - kGuard; i < out_.size(); ++i)
      EXPECT_EQ(std::memcmp(&out_[i], &untouched, sizeof(T)), 0);
    for (std::size_t i = 0; i < misalignment_; ++i)
      EXPECT_EQ(std::memcmp(&out_[i], &untouched, sizeof(T)), 0);
    return {begin, out_.end() - kGuard};
  }

 private:
  static constexpr int kGuard = 40;

  int pick(int lowest, int highest) { return std::uniform_int_distribution<int>(lowest, highest)(random_); }

  /// Between 0 and 20 sources: none, one, groups of one, one group, or any groups.
  void add_row() {
    const int kind = pick(0, 4);
    const int num_groups = kind == 0 ? 0 : kind == 1 || kind == 3 ? 1 : pick(2, 5);
    for (int g = 0; g < num_groups; ++g) {
      num_sources_ += static_cast<std::size_t>(kind <= 2 ? 1 : pick(1, kind == 3 ? 20 : 4));
      source_begin_.push_back(static_cast<std::int64_t>(num_sources_));
    }
    group_begin_.push_back(group_begin_.back() + num_groups);
  }

  std::mt19937_64& random_;
  std::size_t num_sources_ = 0;
  std::size_t misalignment_ = 0;
  std::vector<std::int64_t> group_begin_ = {0};
  std::vector<std::int64_t> source_begin_ = {0};
  std::vector<std::vector<T>> rows_;
  std::vector<const std::byte*> sources_;
  std::vector<T> out_;
  ReduceRows job_;
};

/// reduce_rows of one output row, whose groups are given by the number of sources in each.
template <typename T>
std::vector<T> reduce(const std::vector<std::vector<T>>& rows, const std::vector<int>& group_sizes) {
  std::vector<std::int64_t> source_begin = {0};
  for (const int size : group_sizes) source_begin.push_back(source_begin.back() + size);
  const std::array group_begin = {std::int64_t{0}, static_cast<std::int64_t>(group_sizes.size())};
  std::vector<const std::byte*> sources;
  for (const auto& row : rows) sources.push_back(reinterpret_cast<const std::byte*>(row.data()));
  std::vector<T> out(rows.front().size());
  reduce_rows({.dtype = kDTypeOf<T>,
               .num_columns = out.size(),
               .group_begin = group_begin,
               .source_begin = source_begin,
               .sources = sources,
               .out = reinterpret_cast<std::byte*>(out.data())},
              StoreMode::kStreaming);
  return out;
}

/// Runs under every instruction set that this machine has.
class ReduceRowsTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { force_cpu_target(GetParam()); }
  void TearDown() override { force_cpu_target(""); }

  template <typename T>
  void expect_bits_of_the_specification(const RandomJob<T>& random_job, StoreMode mode) {
    const auto expected = testing::reduced_rows<T>(random_job.job());
    reduce_rows(random_job.job(), mode);
    const auto got = random_job.out();
    ASSERT_EQ(got.size(), expected.size());
    const std::size_t num_columns = random_job.job().num_columns;
    for (std::size_t i = 0; i < got.size(); ++i) {
      std::uint64_t got_bits = 0, expected_bits = 0;
      std::memcpy(&got_bits, &got[i], sizeof(T));
      std::memcpy(&expected_bits, &expected[i], sizeof(T));
      ASSERT_EQ(got_bits, expected_bits)
          << "row " << i / num_columns << ", column " << i % num_columns << " of " << num_columns;
    }
  }

  template <typename T>
  void expect_bits_of_the_specification() {
    std::mt19937_64 random(2026);
    for (const std::size_t num_columns :
         {1, 2, 3, 7, 8, 15, 16, 31, 33, 63, 64, 65, 100, 127, 128, 129, 256, 1000}) {
      for (const std::size_t misalignment : {0, 1, 5}) {
        for (const StoreMode mode : {StoreMode::kCached, StoreMode::kStreaming}) {
          expect_bits_of_the_specification(RandomJob<T>(random, num_columns, misalignment), mode);
        }
      }
    }
  }
};

TEST_P(ReduceRowsTest, BFloat16HasTheBitsOfTheSpecification) {
  expect_bits_of_the_specification<BFloat16>();
}
TEST_P(ReduceRowsTest, Float16HasTheBitsOfTheSpecification) {
  expect_bits_of_the_specification<Float16>();
}
TEST_P(ReduceRowsTest, EveryFloat16IsWidenedAndNarrowedExactly) {
  std::vector<Float16> all, zeros(65536, Float16::from_bits(0));
  for (std::uint32_t bits = 0; bits < 65536; ++bits)
    all.push_back(Float16::from_bits(static_cast<std::uint16_t>(bits)));
  const auto sums = reduce<Float16>({all, zeros}, {1, 1});
  for (std::size_t i = 0; i < sums.size(); ++i) {
    ASSERT_EQ(sums[i].bits, Float16(0.0f + static_cast<float>(all[i]) + 0.0f).bits) << "fp16 " << i;
  }
}
TEST_P(ReduceRowsTest, Float32HasTheBitsOfTheSpecification) {
  expect_bits_of_the_specification<float>();
}
TEST_P(ReduceRowsTest, Float64HasTheBitsOfTheSpecification) {
  expect_bits_of_the_specification<double>();
}

std::vector<std::uint16_t> reduce_bits(const std::vector<std::uint16_t>& columns,
                                       const std::vector<int>& group_sizes) {
  std::vector<std::vector<BFloat16>> rows;
  for (const auto bits : columns) rows.push_back(std::vector(64, BFloat16::from_bits(bits)));
  std::vector<std::uint16_t> result;
  for (const BFloat16 value : reduce(rows, group_sizes)) result.push_back(value.bits);
  return result;
}

std::vector<std::uint16_t> everywhere(std::uint16_t bits) {
  return std::vector<std::uint16_t>(64, bits);
}

TEST_P(ReduceRowsTest, ALoneRowKeepsNegativeZeroAndNanPayload) {
  EXPECT_EQ(reduce_bits({0x8000}, {1}), everywhere(0x8000));
  EXPECT_EQ(reduce_bits({0xFFA5}, {1}), everywhere(0xFFA5));
}

TEST_P(ReduceRowsTest, SumsStartAtPositiveZero) {
  EXPECT_EQ(reduce_bits({0x8000, 0x8000}, {1, 1}), everywhere(0x0000));
}

TEST_P(ReduceRowsTest, NanIsCanonicalInASum) {
  EXPECT_EQ(reduce_bits({0x3F80, 0xFFA5}, {1, 1}), everywhere(0x7FC0));
  EXPECT_EQ(reduce_bits({0x7F80, 0xFF80}, {2}), everywhere(0x7FC0));
  EXPECT_EQ(reduce_bits({0x7F80, 0xFF80, 0x3F80}, {2, 1}), everywhere(0x7FC0));
}

TEST_P(ReduceRowsTest, AGroupIsRoundedBeforeItIsAdded) {
  // 1 + 2^-8 is half way between neighbours and rounds to the even one, 1; so 2^-8 counts only where nothing
  // rounds in between.
  EXPECT_EQ(reduce_bits({0x3F80, 0x3B80, 0x3B80}, {1, 1, 1}), everywhere(0x3F81));
  EXPECT_EQ(reduce_bits({0x3F80, 0x3B80, 0x3B80}, {2, 1}), everywhere(0x3F80));
}

TEST_P(ReduceRowsTest, SubnormalsAreKept) {
  EXPECT_EQ(reduce_bits({0x0001, 0x0001}, {1, 1}), everywhere(0x0002));
}

TEST_P(ReduceRowsTest, TheRoundingModeOfTheProgramDoesNotMatterAndIsLeftAlone) {
  std::fesetround(FE_UPWARD);
  const auto sum = reduce<float>({std::vector(64, 1.0f), std::vector(64, 0x1p-30f)}, {1, 1});
  const int rounding_mode = std::fegetround();
  std::fesetround(FE_TONEAREST);
  EXPECT_EQ(sum, std::vector(64, 1.0f));
  EXPECT_EQ(rounding_mode, FE_UPWARD);
}

INSTANTIATE_TEST_SUITE_P(Targets, ReduceRowsTest, ::testing::ValuesIn(available_cpu_targets()),
                         [](const auto& target) { return target.param; });

TEST(ReduceRowsTest, RowsOfIntegersAreRefused) {
  EXPECT_THROW(reduce_rows({.dtype = DType::kInt32}, StoreMode::kCached), InvalidArgument);
}

}  // namespace
}  // namespace flexep::cpu
