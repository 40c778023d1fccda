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
  return ceil_div(value, alignment) * alignment;
}

}  // namespace flexep
