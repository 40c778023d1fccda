// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <optional>

#include "common/check.h"
#include "flexep/types.h"

/// What the rules of options have in common. All throw InvalidArgument that names the option.
namespace flexep::moe {

inline void require_at_least(int minimum, const char* name, int value) {
  require_argument(value >= minimum, name, "{} must be at least {}, not {}", name, minimum, value);
}

inline void require_at_least(int minimum, const char* name, std::optional<int> value) {
  if (value) require_at_least(minimum, name, *value);
}

inline void require_not_negative(const char* name, double value) {
  require_argument(std::isfinite(value) && value >= 0, name, "{} must be a number of at least 0, not {}",
                   name, value);
}

inline void require_floating(const char* name, DType dtype) {
  require_argument(dtype == DType::kFloat32 || dtype == DType::kFloat64, name,
                   "{} must be fp32 or fp64, not {}", name, name_of(dtype));
}

}  // namespace flexep::moe
