// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include "flexep/types.h"

/// Arithmetic on narrow types, on the host and on devices.
namespace flexep::moe {

/// The type in which arithmetic on T is done.
template <typename T>
using Wide = std::conditional_t<std::is_floating_point_v<T>, T, float>;

/// Between any two of bf16, fp16, fp32 and fp64.
template <typename To, typename From>
constexpr To convert(From value) {
  return static_cast<To>(static_cast<Wide<To>>(static_cast<Wide<From>>(value)));
}

}  // namespace flexep::moe
