// SPDX-License-Identifier: Apache-2.0
#include "plan/expert_sampler.h"

#include <bit>
#include <cmath>

namespace flexep::tool {

ExpertSampler::ExpertSampler(int num_experts, double zipf_exponent, std::uint64_t seed)
    : num_leaves_(std::bit_ceil(static_cast<std::size_t>(num_experts))),
      sums_(2 * num_leaves_),
      random_(seed) {
  weights_.reserve(static_cast<std::size_t>(num_experts));
  for (int e = 0; e < num_experts; ++e) weights_.push_back(std::pow(e + 1.0, -zipf_exponent));
  std::copy(weights_.begin(), weights_.end(), sums_.begin() + static_cast<std::ptrdiff_t>(num_leaves_));
  for (std::size_t node = num_leaves_ - 1; node > 0; --node)
    sums_[node] = sums_[2 * node] + sums_[2 * node + 1];
}

void ExpertSampler::draw(std::span<std::int64_t> ids) {
  for (auto& id : ids) {
    const std::size_t expert = draw_one();
    id = static_cast<std::int64_t>(expert);
    set_weight(expert, 0);
  }
  for (const auto id : ids) set_weight(static_cast<std::size_t>(id), weights_[static_cast<std::size_t>(id)]);
}

std::size_t ExpertSampler::draw_one() {
  // Distributions of the standard library differ between implementations; the generator does not.
  double rest = static_cast<double>(random_() >> 11) * 0x1p-53 * sums_[1];
  std::size_t node = 1;
  while (node < num_leaves_) {
    const double left = sums_[2 * node];
    // Rounding may lead past what is left: never into a part without weight.
    const bool goes_left = rest < left || sums_[2 * node + 1] <= 0;
    if (!goes_left) rest -= left;
    node = 2 * node + (goes_left ? 0 : 1);
  }
  return node - num_leaves_;
}

// Sums are made anew, never corrected, so that nothing accumulates.
void ExpertSampler::set_weight(std::size_t expert, double weight) {
  std::size_t node = num_leaves_ + expert;
  sums_[node] = weight;
  for (node /= 2; node > 0; node /= 2) sums_[node] = sums_[2 * node] + sums_[2 * node + 1];
}

}  // namespace flexep::tool
