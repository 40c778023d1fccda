// SPDX-License-Identifier: Apache-2.0
#include "moe/gemm.h"

#include <cblas.h>

#include <algorithm>
#include <chrono>
#include <cstring>

namespace flexep::moe {
namespace {

// A rank is one thread's worth of computation: ranks fill the cores, and one thread adds in one order.
void use_one_thread() {
  static const bool done = (openblas_set_num_threads(1), true);
  static_cast<void>(done);
}

CBLAS_TRANSPOSE transpose_of(const Factor& factor) {
  return factor.is_transposed ? CblasTrans : CblasNoTrans;
}

// Elements from one row of the memory to the next; OpenBLAS wants at least 1 even where there are none.
blasint stride_of(const Tensor& matrix) {
  return static_cast<blasint>(std::max<std::int64_t>(1, matrix.size(1)));
}

template <typename T, typename Gemm>
void multiply_with(Gemm gemm, const Factor& a, const Factor& b, const Tensor& out) {
  gemm(CblasRowMajor, transpose_of(a), transpose_of(b), static_cast<blasint>(out.size(0)),
       static_cast<blasint>(out.size(1)), static_cast<blasint>(a.columns()), T{1}, a.matrix.data<T>(),
       stride_of(a.matrix), b.matrix.data<T>(), stride_of(b.matrix), T{0}, out.data<T>(), stride_of(out));
}

thread_local double seconds = 0;

// Adds what passes during its life to `seconds`.
class GemmClock {
 public:
  ~GemmClock() { seconds += std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

}  // namespace

double seconds_in_gemms() {
  return seconds;
}

void multiply(const Factor& a, const Factor& b, const Tensor& out) {
  use_one_thread();
  if (out.num_elements() == 0) return;
  const GemmClock clock;
  if (a.columns() == 0) {
    std::memset(out.data(), 0, out.num_bytes());
    return;
  }
  if (out.dtype() == DType::kFloat64)
    multiply_with<double>(cblas_dgemm, a, b, out);
  else
    multiply_with<float>(cblas_sgemm, a, b, out);
}

}  // namespace flexep::moe
