// SPDX-License-Identifier: Apache-2.0
#include "bench/layer_check.h"

#include <fmt/format.h>

#include <cmath>
#include <random>

namespace flexep::tool {
namespace {

template <typename T>
void fill_with_normal(const Tensor& tensor, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  for (T& value : tensor.values<T>()) value = T(normal(random));
}

template <typename T>
double unit_of() {
  return std::is_same_v<T, BFloat16> ? 0x1p-8 : std::is_same_v<T, float> ? 0x1p-24 : 0x1p-53;
}

template <typename T>
double to_double(T value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return static_cast<float>(value);
  } else {
    return value;
  }
}

/// docs/numerics.md: two trees of the same n terms differ by at most 2.06 n u sum |term|, where the sum of
/// magnitudes of n unrelated terms is about sqrt(n) times that of their sum. The second summand is the
/// rounding of the experts' dot products, which depends on where a row lies in its GEMM.
template <typename T>
double tolerance(const BenchOptions& options) {
  const double n = options.num_topk;
  const double unit = unit_of<T>();
  const double gemm_unit = std::is_same_v<T, double> ? unit_of<double>() : unit_of<float>();
  return 2.06 * n * std::sqrt(n) * unit + 8 * std::sqrt(options.hidden) * gemm_unit;
}

template <typename T>
Finding compare_rows(std::string_view name, const Tensor& expected, const Tensor& got, double tolerance) {
  const auto width = static_cast<std::size_t>(expected.size(expected.num_dims() - 1));
  const auto wanted = expected.values<T>(), values = got.values<T>();
  for (std::size_t begin = 0; begin < wanted.size(); begin += width) {
    double difference = 0, magnitude = 0;
    for (std::size_t i = begin; i < begin + width; ++i) {
      const double value = to_double(wanted[i]);
      difference += std::pow(to_double(values[i]) - value, 2);
      magnitude += value * value;
    }
    // Written so that a NaN is a finding.
    if (std::sqrt(difference) <= tolerance * std::sqrt(magnitude)) continue;
    return fmt::format("{}, row {}: differs by {:.3g}, of {:.3g}", name, begin / width, std::sqrt(difference),
                       std::sqrt(magnitude));
  }
  return std::nullopt;
}

Finding compare(const BenchOptions& options, std::string_view name, const Tensor& expected,
                const Tensor& got) {
  if (expected.shape() != got.shape() || expected.dtype() != got.dtype()) {
    return fmt::format("{}: {} {}, not {} {}", name, name_of(got.dtype()), got.shape().to_string(),
                       name_of(expected.dtype()), expected.shape().to_string());
  }
  const auto compare_as = [&]<typename T>(T /*element*/) {
    return compare_rows<T>(name, expected, got, tolerance<T>(options));
  };
  if (got.dtype() == DType::kBFloat16) return compare_as(BFloat16());
  if (got.dtype() == DType::kFloat32) return compare_as(float());
  return compare_as(double());
}

}  // namespace

Tensor normal_tensor(const Shape& shape, DType dtype, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  Tensor tensor = Tensor::empty(shape, dtype);
  if (dtype == DType::kBFloat16) fill_with_normal<BFloat16>(tensor, random);
  if (dtype == DType::kFloat32) fill_with_normal<float>(tensor, random);
  if (dtype == DType::kFloat64) fill_with_normal<double>(tensor, random);
  return tensor;
}

Finding compare_layers(const BenchOptions& options, const LayerValues& expected, const LayerValues& got) {
  const auto& want = expected.gradients;
  const auto& have = got.gradients;
  Finding finding = compare(options, "output", expected.output, got.output);
  const auto also = [&](std::string_view name, const Tensor& wanted, const Tensor& value) {
    if (!finding) finding = compare(options, name, wanted, value);
  };
  also("gradient of hidden", want.hidden, have.hidden);
  also("gradient of the router", want.parameters.router_weight, have.parameters.router_weight);
  also("gradient of fc1", want.parameters.experts.fc1, have.parameters.experts.fc1);
  also("gradient of fc2", want.parameters.experts.fc2, have.parameters.experts.fc2);
  return finding;
}

}  // namespace flexep::tool
