// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/gradient.h"
#include "moe/compute_device.h"

namespace flexep::moe {

/// rows * weight^T, in the device's product_dtype and rounded once to the type of the rows.
/// @param rows  [T, in]. @param weight  [out, in], fp32 or fp64. @return [T, out].
Tensor project(const ComputeDevice& device, const Tensor& rows, const Tensor& weight);

struct ProjectionGradients {
  Gradient<Tensor> rows;    ///< [T, in], in the type of the rows
  Gradient<Tensor> weight;  ///< [out, in], of this rank's rows
};

/// @param grad  [T, out], of project's result.
ProjectionGradients project_backward(const ComputeDevice& device, const Tensor& rows, const Tensor& weight,
                                     const Gradient<Tensor>& grad);

}  // namespace flexep::moe
