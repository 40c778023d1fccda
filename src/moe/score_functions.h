// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

/// What a router makes of one token's row, each with its backward. A backward adds to `grad`.
namespace flexep::moe {

inline constexpr double kSumEpsilon =
    1e-20;  // keeps a row of zero scores from dividing by zero, as in Megatron

/// row[i] = exp(row[i]) / sum_j exp(row[j]).
template <typename T>
void softmax(std::span<T> row) {
  const T largest = *std::max_element(row.begin(), row.end());
  T sum = 0;
  for (T& value : row) sum += value = std::exp(value - largest);
  for (T& value : row) value /= sum;
}

template <typename T>
void softmax_backward(std::span<const T> probs, std::span<const T> grad_probs, std::span<T> grad) {
  T mean = 0;
  for (std::size_t i = 0; i < probs.size(); ++i) mean += probs[i] * grad_probs[i];
  for (std::size_t i = 0; i < probs.size(); ++i) grad[i] += probs[i] * (grad_probs[i] - mean);
}

/// row[i] = 1 / (1 + exp(-row[i])).
template <typename T>
void sigmoid(std::span<T> row) {
  for (T& value : row) value = 1 / (1 + std::exp(-value));
}

template <typename T>
void sigmoid_backward(std::span<const T> scores, std::span<const T> grad_scores, std::span<T> grad) {
  for (std::size_t i = 0; i < scores.size(); ++i) grad[i] += grad_scores[i] * scores[i] * (1 - scores[i]);
}

/// row[i] = sqrt(log(1 + exp(row[i]))).
template <typename T>
void sqrtsoftplus(std::span<T> row) {
  for (T& value : row) value = std::sqrt(std::max(value, T{0}) + std::log1p(std::exp(-std::abs(value))));
}

template <typename T>
void sqrtsoftplus_backward(std::span<const T> scores, std::span<const T> grad_scores, std::span<T> grad) {
  // With s^2 = log(1 + exp(z)) the slope logistic(z) / 2s is (1 - exp(-s^2)) / 2s; a score that has
  // underflowed to 0 has slope 0.
  for (std::size_t i = 0; i < scores.size(); ++i)
    if (scores[i] > 0) grad[i] -= grad_scores[i] * std::expm1(-scores[i] * scores[i]) / (2 * scores[i]);
}

/// row[i] = row[i] / (sum_j row[j] + epsilon).
template <typename T>
void normalise(std::span<T> row) {
  T sum = static_cast<T>(kSumEpsilon);
  for (const T value : row) sum += value;
  for (T& value : row) value /= sum;
}

/// @param values  the row before it was normalised.
template <typename T>
void normalise_backward(std::span<const T> values, std::span<const T> grad_shares, std::span<T> grad) {
  T sum = static_cast<T>(kSumEpsilon), weighted = 0;
  for (const T value : values) sum += value;
  for (std::size_t i = 0; i < values.size(); ++i) weighted += values[i] * grad_shares[i];
  for (std::size_t i = 0; i < values.size(); ++i) grad[i] += (grad_shares[i] - weighted / sum) / sum;
}

}  // namespace flexep::moe
