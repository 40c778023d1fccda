// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <string>
#include <utility>
#include <vector>

#include "flexep/error.h"

namespace flexep {

/// @param called  [R], what each rank called: "dispatch #7".
[[noreturn]] inline void throw_different_operations(std::vector<std::string> called) {
  const auto what = fmt::format("ranks called different operations: {}", fmt::join(called, ", "));
  throw CollectiveMismatch("operation", std::move(called), what);
}

}  // namespace flexep
