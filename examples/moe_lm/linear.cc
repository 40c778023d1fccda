// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/linear.h"

#include <algorithm>

#include "moe_lm/gemm.h"

namespace moe_lm {
namespace {

template <typename T>
MatrixView<T> matrix(const flexep::Tensor& tensor) {
  return {tensor.data<std::remove_const_t<T>>(), tensor.size(0), tensor.size(1)};
}

}  // namespace

template <typename T>
Linear<T>::Linear(const std::string& name, int num_inputs, int num_outputs)
    : weight(make_parameter(name + ".weight", {num_inputs, num_outputs}, flexep::kDTypeOf<T>)),
      bias(make_parameter(name + ".bias", {num_outputs}, flexep::kDTypeOf<T>)) {}

template <typename T>
void Linear<T>::forward(const flexep::Tensor& x, const flexep::Tensor& y) const {
  const auto b = bias.value.template values<T>();
  T* row = y.data<T>();
  for (std::int64_t i = 0; i < y.size(0); ++i) row = std::copy(b.begin(), b.end(), row);
  multiply(matrix<const T>(x), matrix<const T>(weight.value), matrix<T>(y), /*accumulate=*/true);
}

template <typename T>
void Linear<T>::backward(const flexep::Tensor& x, const flexep::Tensor& grad_y,
                         const flexep::Tensor& grad_x) {
  const auto dy = matrix<const T>(grad_y);
  multiply(dy, matrix<const T>(weight.value).transposed(), matrix<T>(grad_x), /*accumulate=*/false);
  multiply(matrix<const T>(x).transposed(), dy, matrix<T>(weight.grad), /*accumulate=*/false);
  const auto grad_bias = bias.grad.template values<T>();
  std::ranges::fill(grad_bias, T{0});
  const T* dy_row = dy.data;
  for (std::int64_t i = 0; i < dy.rows; ++i, dy_row += dy.columns) {
    for (std::size_t j = 0; j < grad_bias.size(); ++j) grad_bias[j] += dy_row[j];
  }
}

template class Linear<float>;
template class Linear<double>;

}  // namespace moe_lm
