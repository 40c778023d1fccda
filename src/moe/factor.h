// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <utility>

#include "flexep/tensor.h"

namespace flexep::moe {

/// A factor of a product: a matrix [rows, columns], or the transpose of one; or a stack [El, rows, columns],
/// a factor for each expert.
struct Factor {
  Factor(Tensor of, bool transpose = false) : matrix(std::move(of)), is_transposed(transpose) {}

  std::int64_t rows() const { return matrix.size(matrix.num_dims() - (is_transposed ? 1 : 2)); }
  std::int64_t columns() const { return matrix.size(matrix.num_dims() - (is_transposed ? 2 : 1)); }
  /// Of a stack.
  Factor of_expert(std::int64_t expert) const {
    return {matrix.rows(expert, expert + 1).reshape({matrix.size(1), matrix.size(2)}), is_transposed};
  }

  Tensor matrix;
  bool is_transposed;
};

inline Factor transposed(const Tensor& matrix) {
  return {matrix, true};
}

}  // namespace flexep::moe
