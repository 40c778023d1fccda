// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cblas.h>

#include <cstdint>

namespace moe_lm {

/// A row-major matrix in somebody else's memory, or its transpose.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  bool is_transposed = false;

  std::int64_t row_stride() const { return is_transposed ? rows : columns; }
  MatrixView transposed() const { return {data, columns, rows, !is_transposed}; }
};

/// c = a * b, or c += a * b. c is not transposed.
template <typename T>
void multiply(const MatrixView<const T>& a, const MatrixView<const T>& b, const MatrixView<T>& c,
              bool accumulate) {
  if (c.rows == 0) return;
  const auto op_a = a.is_transposed ? CblasTrans : CblasNoTrans;
  const auto op_b = b.is_transposed ? CblasTrans : CblasNoTrans;
  const auto m = static_cast<int>(c.rows), n = static_cast<int>(c.columns), k = static_cast<int>(a.columns);
  const auto stride_a = static_cast<int>(a.row_stride()), stride_b = static_cast<int>(b.row_stride());
  const T beta = accumulate ? T{1} : T{0};
  if constexpr (sizeof(T) == sizeof(float)) {
    cblas_sgemm(CblasRowMajor, op_a, op_b, m, n, k, 1.0F, a.data, stride_a, b.data, stride_b, beta, c.data,
                n);
  } else {
    cblas_dgemm(CblasRowMajor, op_a, op_b, m, n, k, 1.0, a.data, stride_a, b.data, stride_b, beta, c.data, n);
  }
}

}  // namespace moe_lm
