// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/rms_norm.h"

#include <algorithm>
#include <cmath>

namespace moe_lm {
namespace {

constexpr double kEpsilon = 1e-6;

template <typename T>
T inverse_rms(const T* x, std::size_t hidden) {
  T sum = 0;
  for (std::size_t j = 0; j < hidden; ++j) sum += x[j] * x[j];
  return T{1} / std::sqrt(sum / static_cast<T>(hidden) + static_cast<T>(kEpsilon));
}

}  // namespace

template <typename T>
RmsNorm<T>::RmsNorm(const std::string& name, int hidden)
    : gain(make_parameter(name + ".gain", {hidden}, flexep::kDTypeOf<T>)) {
  std::ranges::fill(gain.value.template values<T>(), T{1});
}

template <typename T>
void RmsNorm<T>::forward(const flexep::Tensor& x, const flexep::Tensor& y) const {
  const auto g = gain.value.template values<T>();
  const std::size_t hidden = g.size();
  const T* x_row = x.data<T>();
  T* y_row = y.data<T>();
  for (std::int64_t i = 0; i < x.size(0); ++i, x_row += hidden, y_row += hidden) {
    const T scale = inverse_rms(x_row, hidden);
    for (std::size_t j = 0; j < hidden; ++j) y_row[j] = x_row[j] * scale * g[j];
  }
}

// With s = 1 / rms(x) and dz = grad_y * gain: grad_x = s * (dz - x * s^2 * mean(dz * x)).
template <typename T>
void RmsNorm<T>::backward(const flexep::Tensor& x, const flexep::Tensor& grad_y,
                          const flexep::Tensor& grad_x) {
  const auto g = gain.value.template values<T>();
  const auto grad_gain = gain.grad.template values<T>();
  std::ranges::fill(grad_gain, T{0});
  const std::size_t hidden = g.size();
  const T* x_row = x.data<T>();
  const T* dy = grad_y.data<T>();
  T* dx = grad_x.data<T>();
  for (std::int64_t i = 0; i < x.size(0); ++i, x_row += hidden, dy += hidden, dx += hidden) {
    const T scale = inverse_rms(x_row, hidden);
    T dot = 0;
    for (std::size_t j = 0; j < hidden; ++j) dot += dy[j] * g[j] * x_row[j];
    const T along_x = scale * scale * dot / static_cast<T>(hidden);
    for (std::size_t j = 0; j < hidden; ++j) {
      grad_gain[j] += dy[j] * x_row[j] * scale;
      dx[j] += scale * (dy[j] * g[j] - x_row[j] * along_x);
    }
  }
}

template class RmsNorm<float>;
template class RmsNorm<double>;

}  // namespace moe_lm
