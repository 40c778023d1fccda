// SPDX-License-Identifier: Apache-2.0
#include "moe/convert.h"
#include "moe/cuda/elementwise.cuh"
#include "moe/cuda/kernels.h"

namespace flexep::moe::on_cuda {
namespace {

template <typename From, typename To>
struct Cast {
  const From* from;
  To* to;

  template <int kWidth>
  __device__ void at(std::int64_t i) const {
    const auto values = Pack<From, kWidth>::load(from + i);
    Pack<To, kWidth> converted;
#pragma unroll
    for (int j = 0; j < kWidth; ++j) converted.values[j] = convert<To>(values.values[j]);
    converted.store(to + i);
  }
};

template <typename From, typename To>
void launch(const Tensor& tensor, const Tensor& out, cudaStream_t stream) {
  const Cast<From, To> operation{tensor.data<From>(), out.data<To>()};
  const bool is_aligned =
      are_aligned({operation.from}, 4 * sizeof(From)) && are_aligned({operation.to}, 4 * sizeof(To));
  launch_elementwise(operation, tensor.num_elements(), is_aligned, "cast", stream);
}

}  // namespace

void cast(const Tensor& tensor, const Tensor& out, cudaStream_t stream) {
  visit_summable(tensor.dtype(), [&](auto from) {
    visit_summable(out.dtype(), [&](auto to) { launch<decltype(from), decltype(to)>(tensor, out, stream); });
  });
}

}  // namespace flexep::moe::on_cuda
