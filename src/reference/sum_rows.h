// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include "flexep/types.h"

namespace flexep::reference {

template <typename T>
using Row = std::span<const T>;

/// What sums of T are accumulated in.
template <typename T>
using Accumulator = std::conditional_t<std::is_same_v<T, double>, double, float>;

/// To nearest even; every NaN becomes the one canonical quiet NaN.
template <typename T>
T rounded(Accumulator<T> sum) {
  if (std::isnan(sum)) return T(std::numeric_limits<Accumulator<T>>::quiet_NaN());
  return T(sum);
}

/// The sum of rows in the order given, rounded once. No row at all gives zeros; a lone row is a copy, bit for
/// bit.
template <typename T>
std::vector<T> sum_rows(const std::vector<Row<T>>& rows, std::size_t num_columns) {
  if (rows.size() == 1) return {rows[0].begin(), rows[0].end()};
  std::vector<T> sums;
  for (std::size_t column = 0; column < num_columns; ++column) {
    Accumulator<T> sum = 0;
    for (const Row<T>& row : rows) sum += static_cast<Accumulator<T>>(row[column]);
    sums.push_back(rounded<T>(sum));
  }
  return sums;
}

}  // namespace flexep::reference
