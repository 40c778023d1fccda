// SPDX-License-Identifier: Apache-2.0
//
// A block takes a row: its gate, then its up projection.
#include "moe/convert.h"
#include "moe/cuda/block_sum.cuh"
#include "moe/cuda/elementwise.cuh"
#include "moe/cuda/kernels.h"
#include "moe/visit_types.h"

namespace flexep::moe::on_cuda {
namespace {

constexpr int kThreads = 256;

template <typename C>
__device__ C logistic(C z) {
  return 1 / (1 + exp(-z));
}

template <typename T, typename P>
struct Forward {
  const T* gate_up;  // [rows, 2 * ffn]
  const P* probs;    // [rows]
  T* activated;      // [rows, ffn]
  std::int64_t ffn;
};

template <typename T, typename P>
struct Backward {
  const T* gate_up;
  const P* probs;
  const T* grad;    // [rows, ffn]
  T* grad_gate_up;  // [rows, 2 * ffn]
  P* grad_probs;    // [rows]
  T* activated;     // [rows, ffn]
  std::int64_t ffn;
};

template <int kWidth, typename T, typename P>
__global__ void swiglu_kernel(const Forward<T, P> job) {
  using C = Wide<T>;
  const std::int64_t row = blockIdx.x;
  const T* gates = job.gate_up + 2 * job.ffn * row;
  const C prob = static_cast<C>(job.probs[row]);
  for (std::int64_t f = threadIdx.x * kWidth; f < job.ffn; f += kThreads * kWidth) {
    const auto gate = Pack<T, kWidth>::load(gates + f), up = Pack<T, kWidth>::load(gates + job.ffn + f);
    Pack<T, kWidth> activated;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const C z = convert<C>(gate.values[j]);
      activated.values[j] = convert<T>(z * logistic(z) * convert<C>(up.values[j]) * prob);
    }
    activated.store(job.activated + job.ffn * row + f);
  }
}

template <int kWidth, typename T, typename P>
__global__ void swiglu_backward_kernel(const Backward<T, P> job) {
  using C = Wide<T>;
  const std::int64_t row = blockIdx.x;
  const T* gates = job.gate_up + 2 * job.ffn * row;
  T* grad_gates = job.grad_gate_up + 2 * job.ffn * row;
  const C prob = static_cast<C>(job.probs[row]);
  C grad_prob = 0;
  for (std::int64_t f = threadIdx.x * kWidth; f < job.ffn; f += kThreads * kWidth) {
    const auto gate = Pack<T, kWidth>::load(gates + f), up = Pack<T, kWidth>::load(gates + job.ffn + f);
    const auto grads = Pack<T, kWidth>::load(job.grad + job.ffn * row + f);
    Pack<T, kWidth> activated, grad_gate, grad_up;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) {
      const C z = convert<C>(gate.values[j]), u = convert<C>(up.values[j]),
              grad = convert<C>(grads.values[j]);
      const C s = logistic(z), silu = z * s;
      activated.values[j] = convert<T>(silu * u * prob);
      grad_prob += grad * silu * u;
      grad_gate.values[j] = convert<T>(grad * prob * u * (s + silu * (1 - s)));
      grad_up.values[j] = convert<T>(grad * prob * silu);
    }
    activated.store(job.activated + job.ffn * row + f);
    grad_gate.store(grad_gates + f);
    grad_up.store(grad_gates + job.ffn + f);
  }
  grad_prob = block_sum<kThreads>(grad_prob);
  if (threadIdx.x == 0) job.grad_probs[row] = static_cast<P>(grad_prob);
}

// Whether all rows of matrices of T, ffn wide, consist of whole packs of 16 bytes.
template <typename T>
bool has_packs(std::int64_t ffn, std::initializer_list<const void*> addresses) {
  return ffn % (16 / static_cast<std::int64_t>(sizeof(T))) == 0 && are_aligned(addresses, 16);
}

}  // namespace

void swiglu(const Tensor& gate_up, const Tensor& probs, const Tensor& activated, cudaStream_t stream) {
  const auto num_rows = static_cast<unsigned>(activated.size(0));
  if (num_rows == 0) return;
  visit_rows_and_probs(gate_up.dtype(), probs.dtype(), [&](auto row, auto prob) {
    using T = decltype(row);
    using P = decltype(prob);
    const Forward<T, P> job{gate_up.data<T>(), probs.data<P>(), activated.data<T>(), activated.size(1)};
    if (has_packs<T>(job.ffn, {job.gate_up, job.activated}))
      swiglu_kernel<16 / sizeof(T)><<<num_rows, kThreads, 0, stream>>>(job);
    else
      swiglu_kernel<1><<<num_rows, kThreads, 0, stream>>>(job);
  });
  check(cudaGetLastError(), "compute an activation");
}

void swiglu_backward(const Tensor& gate_up, const Tensor& probs, const Tensor& grad,
                     const SwigluGradients& out, cudaStream_t stream) {
  const auto num_rows = static_cast<unsigned>(grad.size(0));
  if (num_rows == 0) return;
  visit_rows_and_probs(gate_up.dtype(), probs.dtype(), [&](auto row, auto prob) {
    using T = decltype(row);
    using P = decltype(prob);
    const Backward<T, P> job{gate_up.data<T>(),     probs.data<P>(),     grad.data<T>(),
                             out.gate_up.data<T>(), out.probs.data<P>(), out.activated.data<T>(),
                             grad.size(1)};
    if (has_packs<T>(job.ffn, {job.gate_up, job.grad, job.grad_gate_up, job.activated}))
      swiglu_backward_kernel<16 / sizeof(T)><<<num_rows, kThreads, 0, stream>>>(job);
    else
      swiglu_backward_kernel<1><<<num_rows, kThreads, 0, stream>>>(job);
  });
  check(cudaGetLastError(), "compute an activation's gradient");
}

}  // namespace flexep::moe::on_cuda
