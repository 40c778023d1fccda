// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "flexep/communicator.h"
#include "flexep/moe/router.h"
#include "moe/router_probs.h"

namespace flexep::moe {

/// Load-balancing loss and z-loss over the tokens of all ranks, which may have different numbers of them, and
/// the slopes that their gradients are made from: the shares f_e of the load are constants, so that the
/// load-balancing loss is linear in a token's shares of score.
struct AuxiliaryLoss {
  double load_balancing = 0;
  double z = 0;
  std::vector<double> global_tokens_per_expert;  ///< [E]; empty without load-balancing loss
  Tensor share_slopes;                           ///< fp64 [sequences or 1, E]; no tensor without that loss
  double z_slope = 0;
};

/// What the losses are computed from.
struct RoutedTokensOfRank {
  Tensor logits;  ///< [T, E]
  ChosenExperts chosen;
};

/// Collective when the configuration has a loss. @tparam T type of logits and scores, float or double.
template <typename T>
AuxiliaryLoss auxiliary_loss(const MoeConfig& config, Communicator& comm, const RoutedTokensOfRank& routed,
                             const RouterInput& input);

}  // namespace flexep::moe
