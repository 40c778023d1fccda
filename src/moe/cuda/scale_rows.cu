// SPDX-License-Identifier: Apache-2.0
//
// A block takes a row. As probs_on_input.cc computes: products in the type of the probabilities.
#include "moe/convert.h"
#include "moe/cuda/block_sum.cuh"
#include "moe/cuda/check.h"
#include "moe/cuda/kernels.h"
#include "moe/visit_types.h"

namespace flexep::moe::on_cuda {
namespace {

constexpr int kThreads = 256;

template <typename T, typename P>
__global__ void scale_kernel(const T* rows, const P* probs, T* scaled, std::int64_t width) {
  const std::int64_t begin = blockIdx.x * width;
  const P prob = probs[blockIdx.x];
  for (std::int64_t h = threadIdx.x; h < width; h += kThreads)
    scaled[begin + h] = convert<T>(prob * convert<P>(rows[begin + h]));
}

template <typename T, typename P>
__global__ void scale_backward_kernel(const T* rows, const P* probs, const T* grad, T* grad_rows,
                                      P* grad_probs, std::int64_t width) {
  const std::int64_t begin = blockIdx.x * width;
  const P prob = probs[blockIdx.x];
  P grad_prob = 0;
  for (std::int64_t h = threadIdx.x; h < width; h += kThreads) {
    const P slope = convert<P>(grad[begin + h]);
    grad_rows[begin + h] = convert<T>(prob * slope);
    grad_prob += slope * convert<P>(rows[begin + h]);
  }
  grad_prob = block_sum<kThreads>(grad_prob);
  if (threadIdx.x == 0) grad_probs[blockIdx.x] = grad_prob;
}

}  // namespace

void scale_rows(const Tensor& rows, const Tensor& probs, const Tensor& scaled, cudaStream_t stream) {
  const auto num_rows = static_cast<unsigned>(rows.size(0));
  if (num_rows == 0) return;
  visit_rows_and_probs(rows.dtype(), probs.dtype(), [&](auto row, auto prob) {
    using T = decltype(row);
    using P = decltype(prob);
    scale_kernel<<<num_rows, kThreads, 0, stream>>>(rows.data<T>(), probs.data<P>(), scaled.data<T>(),
                                                    rows.size(1));
  });
  check(cudaGetLastError(), "scale rows");
}

void scale_rows_backward(const Tensor& rows, const Tensor& probs, const Tensor& grad, const Tensor& grad_rows,
                         const Tensor& grad_probs, cudaStream_t stream) {
  const auto num_rows = static_cast<unsigned>(rows.size(0));
  if (num_rows == 0) return;
  visit_rows_and_probs(rows.dtype(), probs.dtype(), [&](auto row, auto prob) {
    using T = decltype(row);
    using P = decltype(prob);
    scale_backward_kernel<<<num_rows, kThreads, 0, stream>>>(rows.data<T>(), probs.data<P>(), grad.data<T>(),
                                                             grad_rows.data<T>(), grad_probs.data<P>(),
                                                             rows.size(1));
  });
  check(cudaGetLastError(), "compute the gradient of scaled rows");
}

}  // namespace flexep::moe::on_cuda
