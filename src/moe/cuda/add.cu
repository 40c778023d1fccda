// SPDX-License-Identifier: Apache-2.0
#include "moe/convert.h"
#include "moe/cuda/elementwise.cuh"
#include "moe/cuda/kernels.h"

namespace flexep::moe::on_cuda {
namespace {

template <typename A, typename B>
struct Add {
  const A* a;
  const B* b;
  A* sum;

  template <int kWidth>
  __device__ void at(std::int64_t i) const {
    auto left = Pack<A, kWidth>::load(a + i);
    const auto right = Pack<B, kWidth>::load(b + i);
#pragma unroll
    for (int j = 0; j < kWidth; ++j)
      left.values[j] = convert<A>(convert<Wide<A>>(left.values[j]) + convert<Wide<A>>(right.values[j]));
    left.store(sum + i);
  }
};

template <typename A, typename B>
void launch(const Tensor& a, const Tensor& b, const Tensor& sum, cudaStream_t stream) {
  const Add<A, B> operation{a.data<A>(), b.data<B>(), sum.data<A>()};
  const bool is_aligned =
      are_aligned({operation.a, operation.sum}, 4 * sizeof(A)) && are_aligned({operation.b}, 4 * sizeof(B));
  launch_elementwise(operation, sum.num_elements(), is_aligned, "add", stream);
}

}  // namespace

void add(const Tensor& a, const Tensor& b, const Tensor& sum, cudaStream_t stream) {
  visit_summable(a.dtype(), [&](auto left) {
    visit_summable(b.dtype(),
                   [&](auto right) { launch<decltype(left), decltype(right)>(a, b, sum, stream); });
  });
}

}  // namespace flexep::moe::on_cuda
