// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "flexep/communicator.h"
#include "flexep/moe/gradient.h"
#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// What router_backward needs of a forward pass; a value, so that any number of microbatches may be in
/// flight.
struct RouterContext {
  Tensor hidden;      ///< [T, H], in the router's dtype
  Tensor scores;      ///< [T, E], softmax over all experts, or sigmoid
  Tensor topk_idx;    ///< int64 [T, K], in descending order of score
  Tensor topk_probs;  ///< [T, K], probabilities before moe_router_topk_scaling_factor
  /// [E], f_e: the share of all ranks' routed pairs that go to expert e. Empty without auxiliary loss.
  std::vector<double> load;
  double num_global_tokens = 0;  ///< tokens of all ranks; 0 without auxiliary loss
};

struct RouterForward {
  Tensor probs;        ///< [T, E] in moe_router_dtype, 0 where not routed
  Tensor routing_map;  ///< int32 [T, E], 1 where routed (exactly moe_router_topk in each row), else 0
  /// moe_aux_loss_coeff * E * sum_e f_e * P_e over the tokens of all ranks: f_e the share of routed pairs
  /// that go to expert e, P_e the mean normalised score of expert e. The same value on every rank; 0 when the
  /// coefficient is 0.
  double aux_loss = 0;
  std::vector<std::int64_t> tokens_per_expert;  ///< [E], pairs that this rank routed
  RouterContext context;
};

/// Chooses moe_router_topk experts for each token: logits = hidden * weight^T in moe_router_dtype, then
/// scores, then the top k.
///
/// softmax: the probabilities are a softmax over the chosen logits, or, with moe_router_pre_softmax, the
/// chosen entries of a softmax over all. sigmoid: the chosen scores, divided by (their sum + 1e-20) when more
/// than one is chosen. Both times moe_router_topk_scaling_factor. Equal scores: the lower expert wins, so
/// that routing is a pure function of the logits.
///
/// Collective over `comm` when moe_aux_loss_coeff is not 0 (one sum of 2E + 1 doubles), local otherwise.
/// @param hidden  [T, H], bf16, fp32 or fp64; T may be 0 and differ between ranks.
/// @param weight  [E, H] in params_dtype.
/// @throws InvalidArgument that names `hidden` or `weight`; what Communicator throws.
/// Source: Megatron's top-k router; the loss is the Switch Transformer's.
RouterForward router_forward(const MoeConfig& config, Communicator& comm, const Tensor& hidden,
                             const Tensor& weight);

struct RouterOutputGradients {
  Gradient<Tensor> probs;     ///< [T, E] in moe_router_dtype; entries that were not routed are not read
  Gradient<double> aux_loss;  ///< of the loss with respect to aux_loss; 1 when it is simply added
};

struct RouterGradients {
  Gradient<Tensor> hidden;  ///< [T, H] in moe_router_dtype
  Gradient<Tensor> weight;  ///< [E, H] in params_dtype, of this rank's tokens: sum it over the ranks
};

/// Local. The auxiliary loss counts as one global loss: its gradient reaches each rank's own scores, the
/// shares f_e are constants.
RouterGradients router_backward(const MoeConfig& config, const Tensor& weight, const RouterContext& context,
                                const RouterOutputGradients& grads);

}  // namespace flexep::moe
