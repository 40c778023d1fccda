// SPDX-License-Identifier: Apache-2.0
#include "moe/projection.h"

namespace flexep::moe {

Tensor project(const ComputeDevice& device, const Tensor& rows, const Tensor& weight) {
  const DType dtype = device.product_dtype(rows.dtype(), weight.dtype());
  Tensor product = device.empty({rows.size(0), weight.size(0)}, rows.dtype());
  device.multiply(device.cast(rows.contiguous(), dtype), transposed(device.cast(weight, dtype)), product);
  return product;
}

ProjectionGradients project_backward(const ComputeDevice& device, const Tensor& rows, const Tensor& weight,
                                     const Gradient<Tensor>& grad) {
  const DType dtype = device.product_dtype(rows.dtype(), weight.dtype());
  const Tensor grad_product = device.cast(grad.value().contiguous(), dtype);
  const Tensor grad_rows = device.empty(rows.shape(), rows.dtype());
  const Tensor grad_weight = device.empty(weight.shape(), weight.dtype());
  device.multiply(grad_product, device.cast(weight, dtype), grad_rows);
  device.multiply(transposed(grad_product), device.cast(rows.contiguous(), dtype), grad_weight);
  return {.rows = grad_rows, .weight = grad_weight};
}

}  // namespace flexep::moe
