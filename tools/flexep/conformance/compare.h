// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "flexep/tensor.h"

namespace flexep::conformance {

/// Compares bits. Nothing when dtype, shape and all bits are equal, else one line that names the first
/// difference: "row 3, column 17: expected 0x3F80 (1), got 0x3F81 (1.0078125)".
/// @param compared_rows  [rows of `expected`], which rows count; empty: all of them.
std::optional<std::string> first_mismatch(const Tensor& expected, const Tensor& got,
                                          const std::vector<bool>& compared_rows = {});

}  // namespace flexep::conformance
