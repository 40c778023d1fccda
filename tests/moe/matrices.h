// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <type_traits>

#include "flexep/error.h"
#include "flexep/moe/reference.h"

/// What the tests of the MoE layer share: matrices of random numbers, and their comparison.
namespace flexep::moe::testing {

using reference::Matrix;
using reference::Row;

/// Multiples of 2^-10 in [-1, 1): sums of a few of them are exact in every order.
inline Matrix random_matrix(std::size_t num_rows, std::size_t num_columns, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Matrix matrix(num_rows, Row(num_columns));
  for (Row& row : matrix)
    for (double& value : row) value = static_cast<double>(static_cast<int>(random() % 2048) - 1024) / 1024;
  return matrix;
}

inline Tensor random_tensor(std::int64_t num_rows, std::int64_t num_columns, std::uint64_t seed) {
  return reference::to_tensor(
      random_matrix(static_cast<std::size_t>(num_rows), static_cast<std::size_t>(num_columns), seed),
      num_columns);
}

/// The values of any tensor, as one row for each index of its first dimension.
inline Matrix rows_of(const Tensor& tensor) {
  const std::int64_t num_rows = tensor.size(0);
  return reference::to_matrix(
      tensor.reshape({num_rows, num_rows == 0 ? 1 : tensor.num_elements() / num_rows}));
}

/// A tensor of fp64 as values of another type.
template <typename To>
Tensor converted(const Tensor& tensor) {
  Tensor result = Tensor::empty(tensor.shape(), kDTypeOf<To>);
  for (std::size_t i = 0; i < tensor.values<double>().size(); ++i) {
    if constexpr (std::is_floating_point_v<To>)
      result.values<To>()[i] = static_cast<To>(tensor.values<double>()[i]);
    else
      result.values<To>()[i] = To(static_cast<float>(tensor.values<double>()[i]));
  }
  return result;
}

/// How far a matrix is from another, relative to the size of that one.
inline double distance(const Matrix& expected, const Matrix& got) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    for (std::size_t j = 0; j < expected[i].size(); ++j) {
      difference += std::pow(expected[i][j] - got.at(i).at(j), 2);
      size += std::pow(expected[i][j], 2);
    }
  }
  return std::sqrt(difference / size);
}

/// Equal within `tolerance`, relative to values above 1; 0 asks for equality. Names the first mismatch.
inline ::testing::AssertionResult near(const Matrix& expected, const Matrix& got, double tolerance) {
  if (expected.size() != got.size())
    return ::testing::AssertionFailure() << fmt::format("{} rows, expected {}", got.size(), expected.size());
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i].size() != got[i].size())
      return ::testing::AssertionFailure()
             << fmt::format("row {}: {} columns, expected {}", i, got[i].size(), expected[i].size());
    for (std::size_t j = 0; j < expected[i].size(); ++j) {
      const double allowed = tolerance * std::max(1.0, std::abs(expected[i][j]));
      if (!(std::abs(expected[i][j] - got[i][j]) <= allowed))
        return ::testing::AssertionFailure()
               << fmt::format("row {} column {}: expected {}, got {}", i, j, expected[i][j], got[i][j]);
    }
  }
  return ::testing::AssertionSuccess();
}

inline ::testing::AssertionResult near(const Matrix& expected, const Tensor& got, double tolerance) {
  return near(expected, rows_of(got), tolerance);
}

/// Runs `body` and returns which argument its InvalidArgument names; "" when nothing is thrown.
template <typename Body>
std::string rejected_argument(Body&& body) {
  try {
    body();
  } catch (const InvalidArgument& error) {
    EXPECT_NE(std::string(error.what()).find(error.argument()), std::string::npos)
        << "the message does not name the argument: " << error.what();
    return error.argument();
  }
  return "";
}

}  // namespace flexep::moe::testing
