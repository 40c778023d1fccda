// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <concepts>
#include <span>

#include "flexep/tensor.h"

namespace flexep::moe {

/// Row i of a matrix [rows, columns].
template <typename T>
std::span<T> row_of(const Tensor& matrix, std::integral auto i) {
  const auto num_columns = static_cast<std::size_t>(matrix.size(1));
  return {matrix.data<T>() + static_cast<std::size_t>(i) * num_columns, num_columns};
}

}  // namespace flexep::moe
