// SPDX-License-Identifier: Apache-2.0
#include "conformance/compare.h"

#include <fmt/format.h>

#include <bit>
#include <cstring>

namespace flexep::conformance {
namespace {

std::string kind_of(const Tensor& tensor) {
  return tensor ? fmt::format("{} {}", name_of(tensor.dtype()), tensor.shape().to_string()) : "no tensor";
}

/// "0x3F80 (1)"
template <typename Bits, typename T, typename Shown = T>
std::string floating_text(const Tensor& tensor, std::size_t i) {
  const T value = tensor.values<T>()[i];
  return fmt::format("0x{:0{}X} ({})", std::bit_cast<Bits>(value), 2 * sizeof(T), static_cast<Shown>(value));
}

template <typename T>
std::string integer_text(const Tensor& tensor, std::size_t i) {
  return fmt::format("{}", static_cast<const T*>(tensor.data())[i]);
}

std::string element_text(const Tensor& tensor, std::int64_t index) {
  const auto i = static_cast<std::size_t>(index);
  switch (tensor.dtype()) {
    case DType::kBFloat16:
      return floating_text<std::uint16_t, BFloat16, float>(tensor, i);
    case DType::kFloat16:
      return floating_text<std::uint16_t, Float16, float>(tensor, i);
    case DType::kFloat32:
      return floating_text<std::uint32_t, float>(tensor, i);
    case DType::kFloat64:
      return floating_text<std::uint64_t, double>(tensor, i);
    case DType::kFloat8E4M3:
    case DType::kUInt8:
      return integer_text<std::uint8_t>(tensor, i);
    case DType::kInt8:
      return integer_text<std::int8_t>(tensor, i);
    case DType::kInt16:
      return integer_text<std::int16_t>(tensor, i);
    case DType::kInt32:
      return integer_text<std::int32_t>(tensor, i);
    case DType::kInt64:
      return integer_text<std::int64_t>(tensor, i);
  }
  return "?";
}

bool same_bits(const Tensor& expected, const Tensor& got, std::int64_t begin, std::int64_t count) {
  const std::size_t size = size_of(expected.dtype());
  const auto offset = static_cast<std::size_t>(begin) * size;
  return count == 0 || std::memcmp(static_cast<const std::byte*>(expected.data()) + offset,
                                   static_cast<const std::byte*>(got.data()) + offset,
                                   static_cast<std::size_t>(count) * size) == 0;
}

}  // namespace

std::optional<std::string> first_mismatch(const Tensor& expected, const Tensor& got,
                                          const std::vector<bool>& compared_rows) {
  if (kind_of(expected) != kind_of(got)) {
    return fmt::format("expected {}, got {}", kind_of(expected), kind_of(got));
  }
  if (!expected || expected.num_elements() == 0) return std::nullopt;

  const std::int64_t num_rows = expected.size(0);
  const std::int64_t num_columns = expected.num_elements() / num_rows;
  for (std::int64_t row = 0; row < num_rows; ++row) {
    const bool counts = compared_rows.empty() || compared_rows[static_cast<std::size_t>(row)];
    if (!counts || same_bits(expected, got, row * num_columns, num_columns)) continue;
    std::int64_t column = 0;
    while (same_bits(expected, got, row * num_columns + column, 1)) ++column;
    const std::int64_t index = row * num_columns + column;
    return fmt::format("row {}, column {}: expected {}, got {}", row, column, element_text(expected, index),
                       element_text(got, index));
  }
  return std::nullopt;
}

}  // namespace flexep::conformance
