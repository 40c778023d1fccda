// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "conformance/compare.h"

namespace flexep::conformance {

/// Keeps the first difference of one case on one rank. Comparing never stops an operation: other ranks wait
/// for it.
class Findings {
 public:
  void add(std::string_view what, std::string_view difference) {
    if (!first_) first_ = fmt::format("{}: {}", what, difference);
  }

  void compare(std::string_view what, const Tensor& expected, const Tensor& got,
               const std::vector<bool>& compared_rows = {}) {
    if (const auto mismatch = first_mismatch(expected, got, compared_rows)) add(what, *mismatch);
  }

  template <typename T>
  void compare(std::string_view what, const T& expected, const T& got) {
    if (!(expected == got)) add(what, fmt::format("expected {}, got {}", expected, got));
  }

  void compare(std::string_view what, std::span<const std::int32_t> expected,
               std::span<const std::int32_t> got) {
    compare(what, fmt::format("{}", fmt::join(expected, " ")), fmt::format("{}", fmt::join(got, " ")));
  }

  const std::optional<std::string>& first() const { return first_; }

 private:
  std::optional<std::string> first_;
};

}  // namespace flexep::conformance
