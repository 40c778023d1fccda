// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "flexep/tensor.h"

namespace moe_lm {

/// Sum over the rows of -ln softmax(logits)[target], in nats. logits [n, 256], targets [n].
template <typename T>
double cross_entropy(const flexep::Tensor& logits, std::span<const std::uint8_t> targets);

/// The same, and writes the gradient of `scale` times that sum to grad_logits [n, 256].
template <typename T>
double cross_entropy_backward(const flexep::Tensor& logits, std::span<const std::uint8_t> targets,
                              double scale, const flexep::Tensor& grad_logits);

}  // namespace moe_lm
