// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <cstring>
#include <optional>
#include <random>
#include <span>
#include <vector>

#include "flexep/types.h"

namespace flexep::tool {

/// Rows that are told apart by every element and whose sums are exact in every type and order: row `id` is
/// the window [id, id + hidden) of one long row of small random integers. To check a row is to compare it
/// with its window, which makes checking all rows cheap.
class RowPattern {
 public:
  /// Sums of so many values of at most kMaxValue are integers that bf16 holds.
  static constexpr int kMaxTerms = 32;
  static constexpr int kMaxValue = 7;

  RowPattern(std::size_t num_rows, std::size_t hidden, std::uint64_t seed)
      : hidden_(hidden), values_(num_rows + hidden) {
    std::mt19937_64 random(seed);
    for (float& value : values_)
      value = static_cast<float>(static_cast<int>(random() % (2 * kMaxValue + 1)) - kMaxValue);
  }

  template <typename T>
  void write(T* row, std::size_t id) const {
    for (std::size_t column = 0; column < hidden_; ++column) row[column] = T(values_[id + column]);
  }

  /// The first column in which `row` is not the sum of the rows `ids`.
  template <typename T>
  std::optional<std::size_t> find_mismatch(const T* row, std::span<const std::size_t> ids) const {
    for (std::size_t column = 0; column < hidden_; ++column) {
      if (static_cast<float>(row[column]) != sum(ids, column)) return column;
    }
    return std::nullopt;
  }

  float sum(std::span<const std::size_t> ids, std::size_t column) const {
    float sum = 0;
    for (const std::size_t id : ids) sum += values_[id + column];
    return sum;
  }

 private:
  std::size_t hidden_;
  std::vector<float> values_;
};

}  // namespace flexep::tool
