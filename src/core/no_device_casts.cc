// SPDX-License-Identifier: Apache-2.0
#include "common/check.h"
#include "core/device_casts.h"

namespace flexep {

QuantisedRows cast_to_fp8_on_device(const Tensor& x, const Shape&, DType) {
  throw InvalidArgument(
      "x", fmt::format("x is in memory of {}, but this build of flexep has no CUDA", x.device().to_string()));
}

Tensor cast_from_fp8_on_device(const Tensor& x, const Tensor&, DType) {
  return cast_to_fp8_on_device(x, {}, DType::kFloat32).x;
}

}  // namespace flexep
