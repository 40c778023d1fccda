// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>

namespace flexep {

template <std::integral T>
constexpr T ceil_div(T value, T divisor) {
  return (value + divisor - 1) / divisor;
}

/// The smallest multiple of `alignment` that is at least `value`.
template <std::integral T>
constexpr T align_up(T value, T alignment) {
  // As a rule it is a power of two, and a plan aligns often enough to feel the divisions.
  if ((alignment & (alignment - 1)) == 0) return (value + alignment - 1) & ~(alignment - 1);
  return ceil_div(value, alignment) * alignment;
}

}  // namespace flexep
