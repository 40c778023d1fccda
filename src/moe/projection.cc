// SPDX-License-Identifier: Apache-2.0
#include "moe/projection.h"

#include "moe/floating.h"
#include "moe/gemm.h"

namespace flexep::moe {

Tensor project(const Tensor& rows, const Tensor& weight) {
  Tensor product = Tensor::empty({rows.size(0), weight.size(0)}, weight.dtype());
  multiply(cast(rows.contiguous(), weight.dtype()), transposed(weight), product);
  return cast(product, rows.dtype());
}

ProjectionGradients project_backward(const Tensor& rows, const Tensor& weight, const Gradient<Tensor>& grad) {
  const Tensor wide_grad = cast(grad.value().contiguous(), weight.dtype());
  const Tensor grad_rows = Tensor::empty(rows.shape(), weight.dtype());
  const Tensor grad_weight = Tensor::empty(weight.shape(), weight.dtype());
  multiply(wide_grad, weight, grad_rows);
  multiply(transposed(wide_grad), cast(rows.contiguous(), weight.dtype()), grad_weight);
  return {.rows = cast(grad_rows, rows.dtype()), .weight = grad_weight};
}

}  // namespace flexep::moe
