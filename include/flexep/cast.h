// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/tensor.h"

namespace flexep {

/// How the scaling factors of quantised rows are stored.
enum class ScaleFormat {
  kFloat32,  ///< fp32 [T, ceil(H / 128)]
  kUE8M0,    ///< powers of two, their exponents four to an int32, first in the lowest byte: int32 [T,
             ///< ceil(ceil(H / 128) / 4)]
};

/// Rows in fp8 with one scaling factor for each group of 128 elements of a row: element = fp8 * factor.
struct QuantisedRows {
  Tensor x;   ///< fp8_e4m3 [T, H]
  Tensor sf;  ///< see ScaleFormat; unused exponents of the last int32 are 0
};

/// Quantises rows for a dispatch at half the bytes. A group's factor is its largest magnitude (at least 1e-4)
/// / 448, for kUE8M0 rounded up to a power of two; elements are multiplied by its fp32 reciprocal and rounded
/// to nearest even.
/// @param x  [T, H], bf16, fp16 or fp32; any strides.
/// @throws InvalidArgument.
/// Cost: reads each row twice, from memory once.
QuantisedRows cast_to_fp8(const Tensor& x, ScaleFormat format = ScaleFormat::kFloat32);

/// The rows back, each element times its group's factor in fp32, rounded to `dtype` (bf16, fp16 or fp32).
/// @param sf  fp32 or int32, as cast_to_fp8 makes them; any strides, as dispatch returns them.
/// @throws InvalidArgument.
Tensor cast_from_fp8(const Tensor& x, const Tensor& sf, DType dtype);

}  // namespace flexep
