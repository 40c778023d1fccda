// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/parameter.h"

#include <cmath>
#include <span>
#include <utility>

#include "moe_lm/random.h"

namespace moe_lm {
namespace {

template <typename T>
void fill(const RandomStream& random, double deviation, std::span<T> values) {
  const double half_width =
      std::sqrt(3.0) * deviation;  // the standard deviation of uniform(-a, a) is a / sqrt(3)
  for (std::size_t i = 0; i < values.size(); ++i) {
    values[i] = static_cast<T>((2 * random.uniform(i) - 1) * half_width);
  }
}

}  // namespace

Parameter make_parameter(std::string name, const flexep::Shape& shape, flexep::DType dtype) {
  return {.name = std::move(name),
          .value = flexep::Tensor::zeros(shape, dtype),
          .grad = flexep::Tensor::zeros(shape, dtype)};
}

void randomize(const Parameter& parameter, double deviation, std::uint64_t seed) {
  const RandomStream random(seed, parameter.name);
  if (parameter.value.dtype() == flexep::DType::kFloat64) {
    fill(random, deviation, parameter.value.values<double>());
  } else {
    fill(random, deviation, parameter.value.values<float>());
  }
}

}  // namespace moe_lm
