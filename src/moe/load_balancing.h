// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "flexep/communicator.h"
#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// The auxiliary loss coeff * E * sum_e f_e * P_e over the tokens of all ranks, which may have different
/// numbers of them.
struct LoadBalancing {
  double loss = 0;
  std::vector<double> load;      ///< [E], f_e
  double num_global_tokens = 0;  ///< of all ranks
};

/// Collective: one sum over ranks of 2E + 1 doubles.
/// @param scores             [T, E], of T = float or double.
/// @param tokens_per_expert  [E], pairs that this rank routed.
template <typename T>
LoadBalancing balance_load(const MoeConfig& config, Communicator& comm, const Tensor& scores,
                           std::span<const std::int64_t> tokens_per_expert);

/// The gradient of the scores [T, E]. Local.
template <typename T>
Tensor balance_load_backward(const MoeConfig& config, const Tensor& scores, std::span<const double> load,
                             double num_global_tokens, double grad_loss);

}  // namespace flexep::moe
