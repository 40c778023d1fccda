// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <initializer_list>
#include <vector>

#include "flexep/tensor.h"

namespace flexep::testing {

/// tensor_of<float>({2, 2}, {1, 2, 3, 4})
template <typename T>
Tensor tensor_of(const Shape& shape, const std::vector<T>& values) {
  return Tensor::from_values(std::span<const T>(values), shape);
}

/// The elements of a tensor, to compare with a list.
template <typename T>
std::vector<T> values_of(const Tensor& tensor) {
  const auto values = tensor.values<T>();
  return {values.begin(), values.end()};
}

}  // namespace flexep::testing
