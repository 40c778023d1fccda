// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>

#include "matrices.h"

namespace flexep::moe::testing {

/// d loss / d variable by central differences, shaped as rows_of(variable); the variable (fp64) is as before
/// afterwards.
inline Matrix finite_differences(const Tensor& variable, const std::function<double()>& loss) {
  constexpr double kStep = 1e-5;
  Tensor slopes = Tensor::empty(variable.shape(), DType::kFloat64);
  for (std::size_t i = 0; i < variable.values<double>().size(); ++i) {
    double& value = variable.values<double>()[i];
    const double before = value;
    value = before + kStep;
    const double above = loss();
    value = before - kStep;
    slopes.values<double>()[i] = (above - loss()) / (2 * kStep);
    value = before;
  }
  return rows_of(slopes);
}

}  // namespace flexep::moe::testing
