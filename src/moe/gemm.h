// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "flexep/tensor.h"

namespace flexep::moe {

/// A factor of a product: a matrix [rows, columns], fp32 or fp64, or the transpose of one.
struct Factor {
  Factor(Tensor of, bool transpose = false) : matrix(std::move(of)), is_transposed(transpose) {}

  std::int64_t rows() const { return matrix.size(is_transposed ? 1 : 0); }
  std::int64_t columns() const { return matrix.size(is_transposed ? 0 : 1); }

  Tensor matrix;
  bool is_transposed;
};

inline Factor transposed(const Tensor& matrix) {
  return {matrix, true};
}

/// out = a * b, all of one type, through OpenBLAS on the calling thread: the same bits for the same shapes
/// and values. The first call sets OpenBLAS to one thread for the whole process.
void multiply(const Factor& a, const Factor& b, const Tensor& out);

/// Seconds that the calling thread has spent in multiply.
double seconds_in_gemms();

}  // namespace flexep::moe
