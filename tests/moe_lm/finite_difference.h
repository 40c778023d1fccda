// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <string>

#include "flexep/tensor.h"

namespace moe_lm {

/// Holds `grad` against the central differences of `loss` (which reads `values`, fp64) in about 50 places of
/// `values`.
inline void expect_gradient(const std::string& name, const std::function<double()>& loss,
                            const flexep::Tensor& values, const flexep::Tensor& grad) {
  constexpr double kStep = 1e-5;
  const auto x = values.values<double>();
  const std::size_t stride = std::max<std::size_t>(1, x.size() / 50);
  for (std::size_t i = 0; i < x.size(); i += stride) {
    const double middle = x[i];
    x[i] = middle + kStep;
    const double above = loss();
    x[i] = middle - kStep;
    const double below = loss();
    x[i] = middle;
    const double expected = (above - below) / (2 * kStep);
    ASSERT_NEAR(grad.values<double>()[i], expected, 1e-7 + 1e-6 * std::abs(expected))
        << name << "[" << i << "]";
  }
}

}  // namespace moe_lm
