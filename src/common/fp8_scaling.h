// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <bit>
#include <cstdint>

#include "flexep/types.h"

namespace flexep::fp8 {

/// The arithmetic of cast_to_fp8 and cast_from_fp8, for the CPU and for device code. Where a result is NaN
/// the bits are chosen here: processors differ in the NaN that they make.

inline constexpr std::int64_t kGroup = 128;  ///< elements that share a factor
inline constexpr std::int64_t kExponentsPerInt = 4;
inline constexpr float kLargest = 448.0f;
/// What a group's largest magnitude is taken for where it is smaller.
inline constexpr float kSmallestMagnitude = 1e-4f;

constexpr std::uint32_t bits_of(float value) {
  return std::bit_cast<std::uint32_t>(value);
}
constexpr float magnitude_of(float value) {
  return std::bit_cast<float>(bits_of(value) & 0x7FFFFFFFu);
}
constexpr bool is_nan(float value) {
  return (bits_of(value) & 0x7FFFFFFFu) > 0x7F800000u;
}

/// NaN counts for nothing.
constexpr float larger(float largest, float magnitude) {
  return largest < magnitude ? magnitude : largest;
}

/// The smallest power of two that is no smaller. Factors are normal numbers, or infinity.
constexpr float round_up_to_power_of_two(float value) {
  const std::uint32_t bits = bits_of(value);
  const bool is_power = (bits & 0x7FFFFFu) == 0;
  return std::bit_cast<float>((bits & 0x7F800000u) + (is_power ? 0u : 0x800000u));
}
constexpr std::uint32_t exponent_of(float power_of_two) {
  return bits_of(power_of_two) >> 23;
}
constexpr float power_of_exponent(std::uint32_t exponent) {
  return std::bit_cast<float>(exponent << 23);
}

constexpr float factor_of(float largest_magnitude, bool is_power_of_two) {
  const float factor = largest_magnitude / kLargest;
  return is_power_of_two ? round_up_to_power_of_two(factor) : factor;
}

constexpr Float8E4M3 quantise(float value, float reciprocal) {
  const float scaled = value * reciprocal;
  if (is_nan(scaled))
    return Float8E4M3::from_bits(static_cast<std::uint8_t>((bits_of(value) >> 24 & 0x80u) | 0x7Fu));
  return Float8E4M3(scaled);
}

constexpr float restore(Float8E4M3 value, float factor) {
  const float scaled = static_cast<float>(value) * factor;
  return is_nan(scaled) ? std::bit_cast<float>(0x7FC00000u) : scaled;
}

/// Calls visitor(T{}) with the element type of rows that can be quantised. @return whether it is one.
template <typename Visitor>
constexpr bool visit_rows(DType dtype, Visitor visitor) {
  if (dtype == DType::kBFloat16) return visitor(BFloat16{}), true;
  if (dtype == DType::kFloat16) return visitor(Float16{}), true;
  if (dtype == DType::kFloat32) return visitor(float{}), true;
  return false;
}

}  // namespace flexep::fp8
