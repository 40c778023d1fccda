// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "common/check.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// The caller's memory for a result, or our own. @throws InvalidArgument that names `out`.
inline Tensor memory_for(const Tensor& out, const Shape& shape, DType dtype) {
  if (!out) return Tensor::empty(shape, dtype);
  require_argument(out.shape() == shape && out.dtype() == dtype && out.is_contiguous(), "out",
                   "out must be contiguous {} {}, not {} {}", name_of(dtype), shape, name_of(out.dtype()),
                   out.shape());
  return out;
}

}  // namespace flexep::moe
