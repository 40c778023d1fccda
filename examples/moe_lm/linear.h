// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "moe_lm/parameter.h"

namespace moe_lm {

/// y = x * weight + bias.
template <typename T>
class Linear {
 public:
  Linear(const std::string& name, int num_inputs, int num_outputs);

  /// x [n, num_inputs] -> y [n, num_outputs].
  void forward(const flexep::Tensor& x, const flexep::Tensor& y) const;
  /// From the same x: sets the gradients of weight and bias, and grad_x [n, num_inputs].
  void backward(const flexep::Tensor& x, const flexep::Tensor& grad_y, const flexep::Tensor& grad_x);

  Parameter weight;  ///< [num_inputs, num_outputs]
  Parameter bias;    ///< [num_outputs]
};

extern template class Linear<float>;
extern template class Linear<double>;

}  // namespace moe_lm
