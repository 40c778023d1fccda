// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/elementwise.cuh"
#include "moe/cuda/kernels.h"
#include "moe/visit_types.h"

namespace flexep::moe::on_cuda {
namespace {

template <typename T>
struct Sigmoid {
  T* values;

  template <int kWidth>
  __device__ void at(std::int64_t i) const {
    for (int j = 0; j < kWidth; ++j) values[i + j] = 1 / (1 + exp(-values[i + j]));
  }
};

template <typename T>
struct SigmoidBackward {
  const T* values;
  const T* grad_values;
  T* grad;

  template <int kWidth>
  __device__ void at(std::int64_t i) const {
    for (int j = 0; j < kWidth; ++j) grad[i + j] = grad_values[i + j] * values[i + j] * (1 - values[i + j]);
  }
};

template <typename T>
struct FillWithOnes {
  T* values;

  template <int kWidth>
  __device__ void at(std::int64_t i) const {
    for (int j = 0; j < kWidth; ++j) values[i + j] = 1;
  }
};

}  // namespace

void sigmoid(const Tensor& values, cudaStream_t stream) {
  visit_wide(values.dtype(), [&](auto value) {
    using T = decltype(value);
    launch_elementwise(Sigmoid<T>{values.data<T>()}, values.num_elements(), false, "compute a gate", stream);
  });
}

void sigmoid_backward(const Tensor& values, const Tensor& grad_values, const Tensor& grad,
                      cudaStream_t stream) {
  visit_wide(values.dtype(), [&](auto value) {
    using T = decltype(value);
    const SigmoidBackward<T> operation{values.data<T>(), grad_values.data<T>(), grad.data<T>()};
    launch_elementwise(operation, values.num_elements(), false, "compute a gate's gradient", stream);
  });
}

void fill_with_ones(const Tensor& tensor, cudaStream_t stream) {
  visit_wide(tensor.dtype(), [&](auto value) {
    using T = decltype(value);
    launch_elementwise(FillWithOnes<T>{tensor.data<T>()}, tensor.num_elements(), false, "fill", stream);
  });
}

}  // namespace flexep::moe::on_cuda
