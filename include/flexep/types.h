// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace flexep {

/// Element types of tensors. Integers of one or two bytes stand for any payload of that size: dispatch moves
/// bits.
enum class DType : std::uint8_t {
  kBFloat16,
  kFloat16,
  kFloat32,
  kFloat64,
  kFloat8E4M3,
  kUInt8,
  kInt8,
  kInt16,
  kInt32,
  kInt64
};
inline constexpr std::array kAllDTypes = {
    DType::kBFloat16, DType::kFloat16, DType::kFloat32, DType::kFloat64, DType::kFloat8E4M3,
    DType::kUInt8,    DType::kInt8,    DType::kInt16,   DType::kInt32,   DType::kInt64};

/// Bytes of one element.
constexpr std::size_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat8E4M3:
    case DType::kUInt8:
    case DType::kInt8:
      return 1;
    case DType::kBFloat16:
    case DType::kFloat16:
    case DType::kInt16:
      return 2;
    case DType::kFloat32:
    case DType::kInt32:
      return 4;
    case DType::kFloat64:
    case DType::kInt64:
      return 8;
  }
  return 0;
}

/// "bf16", "fp16", "fp32", "fp64", "fp8_e4m3", "uint8", "int8", "int16", "int32", "int64".
constexpr std::string_view name_of(DType dtype) {
  switch (dtype) {
    case DType::kBFloat16:
      return "bf16";
    case DType::kFloat16:
      return "fp16";
    case DType::kFloat32:
      return "fp32";
    case DType::kFloat64:
      return "fp64";
    case DType::kFloat8E4M3:
      return "fp8_e4m3";
    case DType::kUInt8:
      return "uint8";
    case DType::kInt8:
      return "int8";
    case DType::kInt16:
      return "int16";
    case DType::kInt32:
      return "int32";
    case DType::kInt64:
      return "int64";
  }
  return "unknown";
}

namespace detail {

/// The magnitude of an fp32 as the bits of a smaller format of `kFractionBits` and that bias: round to
/// nearest even, subnormals kept. Not for what lies beyond the format's largest number, nor for NaN.
template <int kFractionBits, std::uint32_t kBias>
constexpr std::uint32_t round_magnitude(std::uint32_t magnitude) {
  constexpr std::uint32_t kDroppedBits = 23 - kFractionBits;
  constexpr std::uint32_t kMinExponent = 128 - kBias;  // of normal numbers, as fp32 stores it
  const std::uint32_t exponent = magnitude >> 23;
  if (exponent >= kMinExponent) {
    const std::uint32_t rebased = magnitude - ((127 - kBias) << 23);
    const std::uint32_t is_odd = (rebased >> kDroppedBits) & 1u;
    return (rebased + (1u << (kDroppedBits - 1)) - 1 + is_odd) >> kDroppedBits;
  }
  // How many multiples of the smallest subnormal. Below half of one it is zero.
  const std::uint32_t shift = kDroppedBits + kMinExponent - exponent;
  if (shift > 24) return 0;
  const std::uint32_t significand = (magnitude & 0x7FFFFFu) | 0x800000u;
  const std::uint32_t kept = significand >> shift;
  const std::uint32_t rest = significand & ((1u << shift) - 1);
  const std::uint32_t half = 1u << (shift - 1);
  const bool is_up = rest > half || (rest == half && (kept & 1u) != 0);
  return kept + (is_up ? 1u : 0u);
}

}  // namespace detail

/// bfloat16: the upper half of an fp32. Conversions are exact integer arithmetic and the same on every
/// machine: round to nearest even, subnormals kept, every NaN becomes the canonical quiet NaN 0x7FC0.
struct BFloat16 {
  std::uint16_t bits = 0;

  BFloat16() = default;
  explicit constexpr BFloat16(float value) : bits(round(std::bit_cast<std::uint32_t>(value))) {}
  explicit constexpr operator float() const {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  }
  static constexpr BFloat16 from_bits(std::uint16_t bits) {
    BFloat16 value;
    value.bits = bits;
    return value;
  }

 private:
  static constexpr std::uint16_t round(std::uint32_t f) {
    const bool is_nan = (f & 0x7FFFFFFFu) > 0x7F800000u;
    if (is_nan) return 0x7FC0u;
    return static_cast<std::uint16_t>((f + 0x7FFFu + ((f >> 16) & 1u)) >> 16);
  }
};
static_assert(sizeof(BFloat16) == 2);

/// IEEE half precision. As BFloat16: round to nearest even, subnormals kept, every NaN becomes 0x7E00.
struct Float16 {
  std::uint16_t bits = 0;

  Float16() = default;
  explicit constexpr Float16(float value) : bits(round(std::bit_cast<std::uint32_t>(value))) {}
  explicit constexpr operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t exponent = (bits >> 10) & 0x1Fu;
    const std::uint32_t fraction = bits & 0x3FFu;
    if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000u | (fraction << 13));
    if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
    // A subnormal is fraction * 2^-24, exact in fp32.
    const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  static constexpr Float16 from_bits(std::uint16_t bits) {
    Float16 value;
    value.bits = bits;
    return value;
  }

 private:
  static constexpr std::uint16_t round(std::uint32_t f) {
    const auto sign = static_cast<std::uint16_t>((f >> 16) & 0x8000u);
    const std::uint32_t magnitude = f & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return 0x7E00u;
    if (magnitude >= 0x47800000u) return sign | 0x7C00u;  // 2^16 and more
    return static_cast<std::uint16_t>(sign | detail::round_magnitude<10, 15>(magnitude));
  }
};
static_assert(sizeof(Float16) == 2);

/// fp8 with 4 bits of exponent and 3 of fraction, no infinities, largest number 448 ("e4m3fn"). Round to
/// nearest even, subnormals kept; what rounds beyond 448, and every NaN, becomes the NaN 0x7F of its sign.
struct Float8E4M3 {
  std::uint8_t bits = 0;

  Float8E4M3() = default;
  explicit constexpr Float8E4M3(float value) : bits(round(std::bit_cast<std::uint32_t>(value))) {}
  explicit constexpr operator float() const {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x80u) << 24;
    const std::uint32_t exponent = (bits >> 3) & 0xFu;
    const std::uint32_t fraction = bits & 0x7u;
    if ((bits & 0x7Fu) == 0x7Fu) return std::bit_cast<float>(sign | 0x7FC00000u);
    if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (fraction << 20));
    // A subnormal is fraction * 2^-9.
    const float magnitude = static_cast<float>(fraction) * 0x1p-9f;
    return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(magnitude));
  }
  static constexpr Float8E4M3 from_bits(std::uint8_t bits) {
    Float8E4M3 value;
    value.bits = bits;
    return value;
  }

 private:
  static constexpr std::uint8_t round(std::uint32_t f) {
    const auto sign = static_cast<std::uint8_t>((f >> 24) & 0x80u);
    const std::uint32_t magnitude = f & 0x7FFFFFFFu;
    if (magnitude > 0x43E80000u) return sign | 0x7Fu;  // above 464, half way from 448 to what would be 480
    return static_cast<std::uint8_t>(sign | detail::round_magnitude<3, 7>(magnitude));
  }
};
static_assert(sizeof(Float8E4M3) == 1);

/// The DType of a C++ element type.
template <typename T>
struct DTypeOf;
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBFloat16;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::kFloat16;
};
template <>
struct DTypeOf<Float8E4M3> {
  static constexpr DType value = DType::kFloat8E4M3;
};
template <>
struct DTypeOf<std::uint8_t> {
  static constexpr DType value = DType::kUInt8;
};
template <>
struct DTypeOf<std::int8_t> {
  static constexpr DType value = DType::kInt8;
};
template <>
struct DTypeOf<std::int16_t> {
  static constexpr DType value = DType::kInt16;
};
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kFloat32;
};
template <>
struct DTypeOf<double> {
  static constexpr DType value = DType::kFloat64;
};
template <>
struct DTypeOf<std::int32_t> {
  static constexpr DType value = DType::kInt32;
};
template <>
struct DTypeOf<std::int64_t> {
  static constexpr DType value = DType::kInt64;
};
template <typename T>
inline constexpr DType kDTypeOf = DTypeOf<T>::value;

/// Calls visitor(T{}) with the element type of `dtype` if combine can sum rows of it. @return whether it can.
template <typename Visitor>
constexpr bool visit_summable(DType dtype, Visitor&& visitor) {
  switch (dtype) {
    case DType::kBFloat16:
      visitor(BFloat16{});
      return true;
    case DType::kFloat16:
      visitor(Float16{});
      return true;
    case DType::kFloat32:
      visitor(float{});
      return true;
    case DType::kFloat64:
      visitor(double{});
      return true;
    case DType::kFloat8E4M3:
    case DType::kUInt8:
    case DType::kInt8:
    case DType::kInt16:
    case DType::kInt32:
    case DType::kInt64:
      return false;
  }
  return false;
}

/// Whether combine can sum rows of this type.
constexpr bool is_summable(DType dtype) {
  return visit_summable(dtype, [](auto) {});
}

}  // namespace flexep
