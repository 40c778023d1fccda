// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/embedding.h"

#include <algorithm>

namespace moe_lm {

template <typename T>
ByteEmbedding<T>::ByteEmbedding(const std::string& name, int dim)
    : table(make_parameter(name + ".table", {256, dim}, flexep::kDTypeOf<T>)) {}

template <typename T>
void ByteEmbedding<T>::forward(std::span<const std::uint8_t> bytes, const flexep::Tensor& y) const {
  const T* vectors = table.value.template data<T>();
  T* out = y.data<T>();
  for (const std::uint8_t byte : bytes) out = std::copy_n(vectors + byte * dim(), dim(), out);
}

template <typename T>
void ByteEmbedding<T>::backward(std::span<const std::uint8_t> bytes, const flexep::Tensor& grad_y) {
  std::ranges::fill(table.grad.template values<T>(), T{0});
  T* grads = table.grad.template data<T>();
  const T* dy = grad_y.data<T>();
  for (const std::uint8_t byte : bytes) {
    T* grad = grads + byte * dim();
    for (std::int64_t j = 0; j < dim(); ++j) grad[j] += *dy++;
  }
}

template class ByteEmbedding<float>;
template class ByteEmbedding<double>;

}  // namespace moe_lm
