// SPDX-License-Identifier: Apache-2.0
#include "plan/least_squares.h"

#include <algorithm>
#include <cmath>

namespace flexep::tool {
namespace {

constexpr int kMaxSweeps = 20000;
constexpr double kConverged = 1e-12;

/// Normal equations of relative errors, with every feature scaled to unit length.
struct NormalEquations {
  std::size_t size;
  std::vector<double> matrix;  ///< [size, size]
  std::vector<double> target;
  std::vector<double> scale;  ///< 0 for a feature that is always 0

  double& at(std::size_t row, std::size_t column) { return matrix[row * size + column]; }
};

NormalEquations normal_equations(const std::vector<Equation>& equations, std::size_t size) {
  NormalEquations normal{size, std::vector<double>(size * size), std::vector<double>(size),
                         std::vector<double>(size)};
  for (const auto& [features, target] : equations) {
    for (std::size_t i = 0; i < size; ++i) {
      normal.target[i] += features[i] / target;
      for (std::size_t j = 0; j < size; ++j) normal.at(i, j) += features[i] / target * features[j] / target;
    }
  }
  for (std::size_t i = 0; i < size; ++i)
    normal.scale[i] = normal.at(i, i) > 0 ? 1 / std::sqrt(normal.at(i, i)) : 0;
  for (std::size_t i = 0; i < size; ++i) {
    normal.target[i] *= normal.scale[i];
    for (std::size_t j = 0; j < size; ++j) normal.at(i, j) *= normal.scale[i] * normal.scale[j];
  }
  return normal;
}

}  // namespace

// Coordinate descent: each coefficient in turn takes its best value that is not negative.
std::vector<double> fit_non_negative(const std::vector<Equation>& equations, std::size_t num_features) {
  NormalEquations normal = normal_equations(equations, num_features);
  std::vector<double> coefficients(num_features);
  for (int sweep = 0; sweep < kMaxSweeps; ++sweep) {
    double largest_step = 0;
    for (std::size_t i = 0; i < num_features; ++i) {
      if (normal.scale[i] == 0) continue;
      double rest = normal.target[i];
      for (std::size_t j = 0; j < num_features; ++j)
        if (j != i) rest -= normal.at(i, j) * coefficients[j];
      const double best = std::max(0.0, rest);
      largest_step = std::max(largest_step, std::abs(best - coefficients[i]));
      coefficients[i] = best;
    }
    if (largest_step < kConverged) break;
  }
  for (std::size_t i = 0; i < num_features; ++i) coefficients[i] *= normal.scale[i];
  return coefficients;
}

}  // namespace flexep::tool
