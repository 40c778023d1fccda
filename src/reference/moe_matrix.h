// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/reference.h"

namespace flexep::moe::reference {

inline Matrix zeros(std::size_t num_rows, std::size_t num_columns) {
  return Matrix(num_rows, Row(num_columns));
}

inline double dot(const Row& a, const Row& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// y = matrix * x.
inline Row times(const Matrix& matrix, const Row& x) {
  Row y;
  for (const Row& row : matrix) y.push_back(dot(row, x));
  return y;
}

/// sum += factor * row.
inline void add_scaled(Row& sum, double factor, const Row& row) {
  for (std::size_t i = 0; i < row.size(); ++i) sum[i] += factor * row[i];
}

/// Backward of y = matrix * x: adds to the gradients of matrix and x.
inline void times_backward(const Matrix& matrix, const Row& x, const Row& grad_y, Matrix& grad_matrix,
                           Row& grad_x) {
  for (std::size_t i = 0; i < matrix.size(); ++i) {
    add_scaled(grad_matrix[i], grad_y[i], x);
    add_scaled(grad_x, grad_y[i], matrix[i]);
  }
}

}  // namespace flexep::moe::reference
