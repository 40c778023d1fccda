// SPDX-License-Identifier: Apache-2.0
#include "moe/topk.h"

#include <cmath>
#include <limits>
#include <vector>

#include "moe/floating.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

// Keeps the best so far, best first: most columns are no better than the last of them. `best` is as long as
// out.
template <typename T>
void topk_of_row(std::span<const T> values, std::vector<T>& best, std::span<std::int64_t> out) {
  std::size_t num_kept = 0;
  for (std::size_t column = 0; column < values.size(); ++column) {
    const T value = std::isnan(values[column]) ? -std::numeric_limits<T>::infinity() : values[column];
    if (num_kept == out.size() && !(value > best.back())) continue;
    std::size_t place = num_kept < out.size() ? num_kept++ : num_kept - 1;
    for (; place > 0 && value > best[place - 1]; --place) {
      best[place] = best[place - 1];
      out[place] = out[place - 1];
    }
    best[place] = value;
    out[place] = static_cast<std::int64_t>(column);
  }
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
  const std::int64_t num_rows = values.size(0);
  Tensor idx = Tensor::empty({num_rows, k}, DType::kInt64);
  visit_floating(values.dtype(), "values", [&]<typename T>(T) {
    if constexpr (std::is_floating_point_v<T>) {
      std::vector<T> best(static_cast<std::size_t>(k));
      for (std::int64_t row = 0; row < num_rows; ++row)
        topk_of_row<T>(row_of<T>(values, row), best, row_of<std::int64_t>(idx, row));
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
