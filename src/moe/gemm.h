// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include "flexep/tensor.h"

namespace flexep::moe {

/// A dense row-major matrix, or the transpose of one.
template <typename T>
struct Matrix {
  T* data;
  std::int64_t rows;
  std::int64_t cols;
  bool is_transposed = false;  ///< `data` holds [cols, rows]

  Matrix transposed() const { return {data, cols, rows, !is_transposed}; }
};

/// A two-dimensional tensor as a matrix of T, which may be const.
template <typename T>
Matrix<T> matrix_of(const Tensor& tensor) {
  return {tensor.data<std::remove_const_t<T>>(), tensor.size(0), tensor.size(1)};
}

/// out = a * b, through OpenBLAS on the calling thread: the same bits for the same shapes and values. `out`
/// is not transposed.
void multiply(Matrix<const float> a, Matrix<const float> b, Matrix<float> out);
void multiply(Matrix<const double> a, Matrix<const double> b, Matrix<double> out);

}  // namespace flexep::moe
