// SPDX-License-Identifier: Apache-2.0
#include "conformance/compare.h"

#include <fmt/format.h>

#include <cstring>

namespace flexep::conformance {
namespace {

std::string kind_of(const Tensor& tensor) {
  return tensor ? fmt::format("{} {}", name_of(tensor.dtype()), tensor.shape().to_string()) : "no tensor";
}

std::string element_text(const Tensor& tensor, std::int64_t index) {
  const auto i = static_cast<std::size_t>(index);
  switch (tensor.dtype()) {
    case DType::kBFloat16: {
      const BFloat16 value = tensor.values<BFloat16>()[i];
      return fmt::format("0x{:04X} ({})", value.bits, static_cast<float>(value));
    }
    case DType::kFloat32: {
      const float value = tensor.values<float>()[i];
      return fmt::format("0x{:08X} ({})", std::bit_cast<std::uint32_t>(value), value);
    }
    case DType::kFloat64: {
      const double value = tensor.values<double>()[i];
      return fmt::format("0x{:016X} ({})", std::bit_cast<std::uint64_t>(value), value);
    }
    case DType::kInt32:
      return fmt::format("{}", tensor.values<std::int32_t>()[i]);
    case DType::kInt64:
      return fmt::format("{}", tensor.values<std::int64_t>()[i]);
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
