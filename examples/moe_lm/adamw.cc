// SPDX-License-Identifier: Apache-2.0
#include "moe_lm/adamw.h"

#include <cmath>
#include <utility>

namespace moe_lm {

AdamW::AdamW(std::vector<Parameter*> parameters, const AdamWConfig& config)
    : parameters_(std::move(parameters)), config_(config) {
  for (const Parameter* parameter : parameters_) {
    const auto size = static_cast<std::size_t>(parameter->value.num_elements());
    moments_.push_back({.mean = std::vector<float>(size), .mean_square = std::vector<float>(size)});
  }
}

void AdamW::step(double learning_rate, double grad_scale) {
  ++num_steps_;
  // The moments start at zero; dividing by these makes them unbiased.
  const double mean_correction = 1 - std::pow(config_.beta1, num_steps_);
  const double square_correction = 1 - std::pow(config_.beta2, num_steps_);
  const auto scale = static_cast<float>(grad_scale);
  const auto beta1 = static_cast<float>(config_.beta1);
  const auto beta2 = static_cast<float>(config_.beta2);
  const auto epsilon = static_cast<float>(config_.epsilon);
  const auto rate = static_cast<float>(learning_rate / mean_correction);
  const auto inverse_square_correction = static_cast<float>(1 / square_correction);

  for (std::size_t p = 0; p < parameters_.size(); ++p) {
    const bool is_matrix = parameters_[p]->value.num_dims() > 1;
    const auto keep = static_cast<float>(is_matrix ? 1 - learning_rate * config_.weight_decay : 1.0);
    float* value = parameters_[p]->value.data<float>();
    const float* grad = parameters_[p]->grad.data<float>();
    float* mean = moments_[p].mean.data();
    float* mean_square = moments_[p].mean_square.data();
    for (std::size_t i = 0; i < moments_[p].mean.size(); ++i) {
      const float g = grad[i] * scale;
      mean[i] = beta1 * mean[i] + (1 - beta1) * g;
      mean_square[i] = beta2 * mean_square[i] + (1 - beta2) * g * g;
      const float deviation = std::sqrt(mean_square[i] * inverse_square_correction);
      value[i] = keep * value[i] - rate * mean[i] / (deviation + epsilon);
    }
  }
}

}  // namespace moe_lm
