// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstring>
#include <limits>
#include <vector>

#include "flexep/types.h"
#include "kernels/cpu/reduce_rows.h"

namespace flexep::testing {

/// The precision in which sums of T are accumulated.
template <typename T>
struct Accumulator {
  using type = T;
};
template <>
struct Accumulator<BFloat16> {
  using type = float;
};

template <>
struct Accumulator<Float16> {
  using type = float;
};

template <typename T>
T element_at(const std::byte* row, std::size_t column) {
  T value;
  std::memcpy(static_cast<void*>(&value), row + column * sizeof(T), sizeof(T));
  return value;
}

/// A sum as the element type has it. The constructors of BFloat16 and Float16 make a NaN canonical; the wider
/// types are left to us.
inline BFloat16 rounded(float sum, BFloat16) {
  return BFloat16(sum);
}
inline Float16 rounded(float sum, Float16) {
  return Float16(sum);
}
template <typename T>
T rounded(T sum, T) {
  return sum == sum ? sum : std::numeric_limits<T>::quiet_NaN();
}

/// The specification of reduce_rows: one element of one output row.
template <typename T>
T reduced_element(const cpu::ReduceRows& job, std::size_t row, std::size_t column) {
  using Sum = typename Accumulator<T>::type;
  std::vector<T> groups;
  for (auto g = job.group_begin[row]; g < job.group_begin[row + 1]; ++g) {
    const auto begin = job.source_begin[static_cast<std::size_t>(g)];
    const auto end = job.source_begin[static_cast<std::size_t>(g) + 1];
    Sum sum = 0;
    for (auto s = begin; s < end; ++s)
      sum += static_cast<Sum>(element_at<T>(job.sources[static_cast<std::size_t>(s)], column));
    const bool is_lone = end - begin == 1;
    groups.push_back(is_lone ? element_at<T>(job.sources[static_cast<std::size_t>(begin)], column)
                             : rounded(sum, T{}));
  }
  if (groups.size() == 1) return groups.front();
  Sum sum = 0;
  for (const T& group : groups) sum += static_cast<Sum>(group);
  return rounded(sum, T{});
}

/// The specification of reduce_rows.
template <typename T>
std::vector<T> reduced_rows(const cpu::ReduceRows& job) {
  std::vector<T> out;
  for (std::size_t row = 0; row + 1 < job.group_begin.size(); ++row) {
    for (std::size_t column = 0; column < job.num_columns; ++column)
      out.push_back(reduced_element<T>(job, row, column));
  }
  return out;
}

}  // namespace flexep::testing
