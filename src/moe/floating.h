// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>

#include "flexep/error.h"
#include "flexep/tensor.h"
#include "moe/convert.h"

namespace flexep::moe {

/// Calls visitor(T{}) with the element type of `dtype`. @throws InvalidArgument for `argument` when it is not
/// bf16, fp16, fp32 or fp64.
template <typename Visitor>
void visit_floating(DType dtype, const char* argument, Visitor&& visitor) {
  if (visit_summable(dtype, visitor)) return;
  throw InvalidArgument(argument,
                        fmt::format("{} must be bf16, fp16, fp32 or fp64, not {}", argument, name_of(dtype)));
}

/// The same values as another floating type, rounded to nearest even; the tensor itself when it has that
/// type.
Tensor cast(const Tensor& tensor, DType dtype);

/// The same into memory that is there: `out` has the shape of `tensor`.
void cast_into(const Tensor& tensor, const Tensor& out);

/// a + b, element by element, in the type and shape of a; b may be of another floating type.
Tensor add(const Tensor& a, const Tensor& b);

}  // namespace flexep::moe
