// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "flexep/communicator.h"
#include "flexep/moe/router.h"

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

/// What the losses of this rank's tokens are computed from, on the host.
struct LossSums {
  std::int64_t num_tokens = 0;
  Tensor by_sequence;  ///< as sum_by_sequence, for num_loss_sequences
  double squared_log_sums = 0;
};

/// Whether the configuration has a loss: without one there is nothing to sum, and nothing collective.
bool has_loss(const MoeConfig& config);
/// Over which the load is counted: those of the input for seq_aux_loss, else all tokens are one.
std::int64_t num_loss_sequences(const MoeConfig& config, const RouterInput& input);

/// Collective. For a configuration that has a loss.
AuxiliaryLoss auxiliary_loss(const MoeConfig& config, Communicator& comm, const LossSums& mine,
                             const RouterInput& input);

}  // namespace flexep::moe
