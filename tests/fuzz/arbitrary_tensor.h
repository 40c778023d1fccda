// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/tensor.h"
#include "fuzz_input.h"

namespace flexep::fuzz {

/// An element type of any kind.
DType draw_dtype(FuzzInput& input);

/// Extents, mostly small, some of them beyond any memory: in between lies what is allowed and merely takes
/// long.
/// @throws InvalidArgument when they are no shape.
Shape draw_shape(FuzzInput& input);

/// A tensor of `shape`, all bits zero: dense, or with holes between its rows, or transposed, or with strides
/// 0. Memory backs every element.
Tensor with_some_strides(FuzzInput& input, const Shape& shape, DType dtype);

/// Any tensor that is valid as such, or none.
Tensor draw_tensor(FuzzInput& input);

}  // namespace flexep::fuzz
