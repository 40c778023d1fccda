// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/cast.h"

namespace flexep {

/// The casts of cast.h for tensors of a GPU, whose arguments have been checked.
/// @throws InvalidArgument in a build without CUDA.
QuantisedRows cast_to_fp8_on_device(const Tensor& x, const Shape& sf_shape, DType sf_dtype);
Tensor cast_from_fp8_on_device(const Tensor& x, const Tensor& sf, DType dtype);

}  // namespace flexep
