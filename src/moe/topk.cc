// SPDX-License-Identifier: Apache-2.0
#include "moe/topk.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "moe/floating.h"

namespace flexep::moe {
namespace {

template <typename T>
void topk_of_row(const T* values, std::vector<std::int64_t>& columns, std::span<std::int64_t> out) {
  const auto key = [values](std::int64_t column) {
    return std::isnan(values[column]) ? -std::numeric_limits<T>::infinity() : values[column];
  };
  std::iota(columns.begin(), columns.end(), 0);
  std::partial_sort(columns.begin(), columns.begin() + static_cast<std::ptrdiff_t>(out.size()), columns.end(),
                    [&](auto a, auto b) { return key(a) > key(b) || (key(a) == key(b) && a < b); });
  std::copy_n(columns.begin(), out.size(), out.begin());
}

// Calls visit(row, k, column) for each entry of idx that is not -1.
template <typename Visitor>
void for_each_chosen(const Tensor& idx, Visitor&& visit) {
  const auto* columns = idx.data<std::int64_t>();
  for (std::int64_t row = 0; row < idx.size(0); ++row) {
    for (std::int64_t k = 0; k < idx.size(1); ++k) {
      const std::int64_t column = columns[row * idx.size(1) + k];
      if (column >= 0) visit(row, k, column);
    }
  }
}

}  // namespace

Tensor topk(const Tensor& values, int k) {
  const std::int64_t num_rows = values.size(0), num_columns = values.size(1);
  Tensor idx = Tensor::empty({num_rows, k}, DType::kInt64);
  std::vector<std::int64_t> columns(static_cast<std::size_t>(num_columns));
  visit_floating(values.dtype(), "values", [&]<typename T>(T) {
    for (std::int64_t row = 0; row < num_rows; ++row) {
      if constexpr (std::is_floating_point_v<T>)
        topk_of_row(values.data<T>() + row * num_columns, columns,
                    idx.rows(row, row + 1).values<std::int64_t>());
    }
  });
  return idx;
}

Tensor gather_columns(const Tensor& values, const Tensor& idx) {
  Tensor out = Tensor::zeros(idx.shape(), values.dtype());
  visit_floating(values.dtype(), "values", [&]<typename T>(T) {
    for_each_chosen(idx, [&](auto row, auto k, auto column) {
      out.data<T>()[row * idx.size(1) + k] = values.data<T>()[row * values.size(1) + column];
    });
  });
  return out;
}

Tensor scatter_columns(const Tensor& values, const Tensor& idx, std::int64_t num_columns) {
  Tensor out = Tensor::zeros({idx.size(0), num_columns}, values.dtype());
  visit_floating(values.dtype(), "values", [&]<typename T>(T) {
    for_each_chosen(idx, [&](auto row, auto k, auto column) {
      out.data<T>()[row * num_columns + column] = values.data<T>()[row * idx.size(1) + k];
    });
  });
  return out;
}

Tensor multihot(const Tensor& idx, std::int64_t num_columns) {
  Tensor out = Tensor::zeros({idx.size(0), num_columns}, DType::kInt32);
  for_each_chosen(
      idx, [&](auto row, auto, auto column) { out.data<std::int32_t>()[row * num_columns + column] = 1; });
  return out;
}

}  // namespace flexep::moe
