// SPDX-License-Identifier: Apache-2.0
#include "moe/floating.h"

#include <algorithm>

namespace flexep::moe {
namespace {

template <typename From, typename To>
void convert_all(std::span<const From> from, std::span<To> to) {
  std::transform(from.begin(), from.end(), to.begin(), convert<To, From>);
}

}  // namespace

Tensor cast(const Tensor& tensor, DType dtype) {
  if (tensor.dtype() == dtype) return tensor;
  Tensor result = Tensor::empty(tensor.shape(), dtype);
  cast_into(tensor, result);
  return result;
}

void cast_into(const Tensor& tensor, const Tensor& out) {
  visit_floating(tensor.dtype(), "tensor", [&]<typename From>(From) {
    visit_floating(out.dtype(), "out",
                   [&]<typename To>(To) { convert_all<From, To>(tensor.values<From>(), out.values<To>()); });
  });
}

Tensor add(const Tensor& a, const Tensor& b) {
  Tensor sum = Tensor::empty(a.shape(), a.dtype());
  visit_floating(a.dtype(), "a", [&]<typename A>(A) {
    visit_floating(b.dtype(), "b", [&]<typename B>(B) {
      const auto left = a.values<A>();
      std::transform(left.begin(), left.end(), b.values<B>().begin(), sum.values<A>().begin(),
                     [](A x, B y) { return convert<A>(convert<Wide<A>>(x) + convert<Wide<A>>(y)); });
    });
  });
  return sum;
}

}  // namespace flexep::moe
