// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/router.h"

namespace flexep::moe {

/// Over this rank's tokens: the sum of logsumexp(logits)^2. @param logits  [T, E] of T = float or double.
template <typename T>
double sum_of_squared_log_sums(const Tensor& logits);

/// Adds the gradient of the logits through the z-loss. Local.
template <typename T>
void z_loss_backward(const RouterContext& context, double grad_loss, const Tensor& grad_logits);

}  // namespace flexep::moe
