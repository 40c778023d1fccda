// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace moe_lm {

/// Learning rate of step `step` of `num_steps`: rises over the first twentieth of the steps, then falls to 0
/// along a cosine.
inline double learning_rate_at(std::int64_t step, std::int64_t num_steps, double peak) {
  const double num_warmup_steps = std::max(1.0, static_cast<double>(num_steps) / 20);
  const double rise = std::min(1.0, static_cast<double>(step + 1) / num_warmup_steps);
  const double progress = static_cast<double>(step) / static_cast<double>(num_steps);
  return peak * rise * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace moe_lm
