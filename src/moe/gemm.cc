// SPDX-License-Identifier: Apache-2.0
#include "moe/gemm.h"

#include <cblas.h>

#include <algorithm>

namespace flexep::moe {
namespace {

// A rank is one thread's worth of computation: ranks fill the cores, and one thread adds in one order.
void use_one_thread() {
  static const bool done = (openblas_set_num_threads(1), true);
  static_cast<void>(done);
}

template <typename T>
CBLAS_TRANSPOSE transpose_of(const Matrix<T>& matrix) {
  return matrix.is_transposed ? CblasTrans : CblasNoTrans;
}

template <typename T>
blasint stride_of(const Matrix<T>& matrix) {
  return static_cast<blasint>(std::max<std::int64_t>(1, matrix.is_transposed ? matrix.rows : matrix.cols));
}

template <typename T, typename Gemm>
void multiply_with(Gemm gemm, Matrix<const T> a, Matrix<const T> b, Matrix<T> out) {
  use_one_thread();
  if (out.rows == 0 || out.cols == 0) return;
  if (a.cols == 0) {
    std::fill_n(out.data, out.rows * out.cols, T{0});
    return;
  }
  gemm(CblasRowMajor, transpose_of(a), transpose_of(b), static_cast<blasint>(out.rows),
       static_cast<blasint>(out.cols), static_cast<blasint>(a.cols), T{1}, a.data, stride_of(a), b.data,
       stride_of(b), T{0}, out.data, stride_of(out));
}

}  // namespace

void multiply(Matrix<const float> a, Matrix<const float> b, Matrix<float> out) {
  multiply_with<float>(cblas_sgemm, a, b, out);
}

void multiply(Matrix<const double> a, Matrix<const double> b, Matrix<double> out) {
  multiply_with<double>(cblas_dgemm, a, b, out);
}

}  // namespace flexep::moe
