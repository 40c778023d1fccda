// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "flexep/moe/router.h"
#include "moe/router_probs.h"

namespace flexep::moe {

/// fp64 [sequences, 2E], sums over the tokens of each of this rank's sequences: shares of score, then pairs.
template <typename T>
Tensor sum_by_sequence(const MoeConfig& config, const ChosenExperts& chosen, std::int64_t num_sequences);

/// moe_aux_loss_coeff * E * sum_e f_e * P_e over one set of tokens: f_e from the load [E], P_e from the sums
/// of shares [E]. Sets the slopes [E] of the loss along a token's shares; leaves them when there is nothing.
double balancing_loss(const MoeConfig& config, std::span<const double> share_sums,
                      std::span<const double> load, double num_tokens, std::span<double> slopes);

/// The gradient of the scores [T, E] through the load-balancing loss; zeros without it. Local.
template <typename T>
Tensor load_balancing_backward(const MoeConfig& config, const RouterContext& context, double grad_loss);

}  // namespace flexep::moe
