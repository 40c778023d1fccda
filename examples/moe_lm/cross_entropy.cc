// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/cross_entropy.h"

#include <algorithm>
#include <cmath>

namespace moe_lm {
namespace {

/// ln of the sum of exp(row), without overflow.
template <typename T>
T log_sum_exp(std::span<const T> row) {
  const T largest = *std::max_element(row.begin(), row.end());
  T sum = 0;
  for (const T value : row) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

template <typename T>
std::span<T> row_of(const flexep::Tensor& matrix, std::size_t i) {
  const auto num_columns = static_cast<std::size_t>(matrix.size(1));
  return matrix.values<T>().subspan(i * num_columns, num_columns);
}

}  // namespace

template <typename T>
double cross_entropy(const flexep::Tensor& logits, std::span<const std::uint8_t> targets) {
  double loss = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const auto row = row_of<T>(logits, i);
    loss += static_cast<double>(log_sum_exp<T>(row) - row[targets[i]]);
  }
  return loss;
}

template <typename T>
double cross_entropy_backward(const flexep::Tensor& logits, std::span<const std::uint8_t> targets,
                              double scale, const flexep::Tensor& grad_logits) {
  double loss = 0;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const auto row = row_of<T>(logits, i);
    const auto grad = row_of<T>(grad_logits, i);
    const T log_sum = log_sum_exp<T>(row);
    loss += static_cast<double>(log_sum - row[targets[i]]);
    for (std::size_t j = 0; j < row.size(); ++j) grad[j] = static_cast<T>(scale) * std::exp(row[j] - log_sum);
    grad[targets[i]] -= static_cast<T>(scale);
  }
  return loss;
}

template double cross_entropy<float>(const flexep::Tensor&, std::span<const std::uint8_t>);
template double cross_entropy<double>(const flexep::Tensor&, std::span<const std::uint8_t>);
template double cross_entropy_backward<float>(const flexep::Tensor&, std::span<const std::uint8_t>, double,
                                              const flexep::Tensor&);
template double cross_entropy_backward<double>(const flexep::Tensor&, std::span<const std::uint8_t>, double,
                                               const flexep::Tensor&);

}  // namespace moe_lm
