// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace moe_lm {

/// Steps over which the learning rate rises to its peak, with the square of the step.
///
/// The slow start is for the router: as long as experts are alike, near ties abound, and rounding decides
/// them. What a token that went elsewhere changes grows with the learning rate; a small one keeps runs on
/// different numbers of ranks, which round differently, together.
constexpr double kNumWarmupSteps = 150;

/// Learning rate of step `step` of `num_steps`: after the rise it falls to 0 along a cosine.
inline double learning_rate_at(std::int64_t step, std::int64_t num_steps, double peak) {
  const double rise = std::min(1.0, static_cast<double>(step + 1) / kNumWarmupSteps);
  const double progress = static_cast<double>(step) / static_cast<double>(num_steps);
  return peak * rise * rise * 0.5 * (1 + std::cos(std::numbers::pi * progress));
}

}  // namespace moe_lm
