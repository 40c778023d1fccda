// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <vector>

namespace flexep::tool {

/// One equation: the sum of features[i] * coefficient[i] should be `target`.
struct Equation {
  std::vector<double> features;
  double target = 0;
};

/// The coefficients, none of them negative, with the least sum of squares of relative errors, (sum - target)
/// / target. Targets are positive. Cost: a pass over the equations and some thousand over the coefficients
/// squared.
std::vector<double> fit_non_negative(const std::vector<Equation>& equations, std::size_t num_features);

}  // namespace flexep::tool
