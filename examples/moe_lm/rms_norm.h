// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "moe_lm/parameter.h"

namespace moe_lm {

/// y = x / rms(x) * gain, row by row, with rms(x) = sqrt(mean(x^2) + epsilon).
template <typename T>
class RmsNorm {
 public:
  RmsNorm(const std::string& name, int hidden);

  /// x [n, hidden] -> y [n, hidden].
  void forward(const flexep::Tensor& x, const flexep::Tensor& y) const;
  /// From the same x: sets the gradient of gain, and adds to grad_x [n, hidden], where the residual path has
  /// left its part.
  void backward(const flexep::Tensor& x, const flexep::Tensor& grad_y, const flexep::Tensor& grad_x);

  Parameter gain;  ///< [hidden], starts at 1
};

extern template class RmsNorm<float>;
extern template class RmsNorm<double>;

}  // namespace moe_lm
