// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "flexep/communicator.h"
#include "flexep/moe/gradient.h"
#include "flexep/moe/moe_config.h"
#include "flexep/tensor.h"

namespace flexep::moe {

/// What a router takes besides hidden, weight and configuration.
struct RouterInput {
  /// [E], added to the scores that choose, not to probabilities; empty = none. See updated_expert_bias.
  std::vector<double> expert_bias;
  /// int64 [T, K], the experts to take instead of the best; no tensor = choose. Needs
  /// moe_enable_routing_replay.
  Tensor replay_topk_idx;
  /// [E], pairs of all ranks in earlier microbatches, for global_aux_loss; empty = none.
  std::vector<double> past_tokens_per_expert;
  /// B of hidden [S, B, H], for seq_aux_loss: token t is of this rank's sequence t % num_sequences.
  std::int64_t num_sequences = 1;
  /// Decides all that is random: the same on every rank, another in each forward.
  std::uint64_t random_key = 0;
};

/// What router_backward needs of a forward pass; a value, so that any number of microbatches may be in
/// flight.
struct RouterContext {
  Tensor hidden;      ///< [T, H], in the router's dtype, jittered
  Tensor scores;      ///< [T, E], of all experts
  Tensor topk_idx;    ///< int64 [T, K], in descending order of what chose
  Tensor topk_probs;  ///< [T, K], probabilities before moe_router_topk_scaling_factor
  Tensor kept;        ///< int32 [T, E], what capacity has left; no tensor = everything
  /// fp64 [sequences, E] or [1, E]: the slope of the load-balancing loss along a token's share of score. No
  /// tensor without that loss.
  Tensor share_slopes;
  Tensor logits;         ///< [T, E], where there is a z-loss
  double z_slope = 0;    ///< moe_z_loss_coeff / tokens of all ranks
  Tensor input_factors;  ///< [T, H], the jitter; no tensor without
};

struct RouterForward {
  Tensor probs;        ///< [T, E] in router_dtype(), 0 where not routed
  Tensor routing_map;  ///< int32 [T, E], 1 where routed, else 0: K in each row unless capacity drops or pads
  Tensor topk_idx;     ///< int64 [T, K], the choice before capacity; replay_topk_idx takes it
  /// Load-balancing loss plus z-loss, over the tokens of all ranks and the same on each.
  double aux_loss = 0;
  double load_balancing_loss = 0;
  double z_loss = 0;
  std::vector<std::int64_t> tokens_per_expert;   ///< [E], pairs that this rank routed, before capacity
  std::vector<double> global_tokens_per_expert;  ///< [E], those of all ranks, with load-balancing loss only
  RouterContext context;
};

/// Chooses moe_router_topk experts for each token: logits = hidden * weight^T in router_dtype(), then scores,
/// then the top k, then what capacity leaves of it.
///
/// softmax: the probabilities are a softmax over the chosen logits, or, with moe_router_pre_softmax, the
/// chosen entries of a softmax over all. sigmoid, sqrtsoftplus: the chosen scores, divided by (their sum +
/// 1e-20) when more than one is chosen. All times moe_router_topk_scaling_factor. Equal scores: the lower
/// expert wins, so that routing is a pure function of the logits.
///
/// The load-balancing loss is moe_aux_loss_coeff * E * sum_e f_e * P_e: f_e the share of routed pairs that go
/// to expert e, P_e the mean normalised score of expert e. aux_loss takes both over the tokens of all ranks,
/// global_aux_loss f_e over earlier microbatches as well, seq_aux_loss both over each sequence, and the mean
/// over all sequences. The z-loss is moe_z_loss_coeff * mean(logsumexp(logits)^2).
///
/// Random choices (jitter, forced load) are pure functions of (random_key, token, column), tokens numbered
/// over all ranks: the same for any division over ranks.
///
/// Collective over `comm` with a loss (one sum of 2E + 4 doubles) or with something random that
/// depends on the token, local otherwise.
/// @param hidden  [T, H], bf16, fp16, fp32 or fp64; T may be 0 and differ between ranks.
/// @param weight  [E, H] in params_dtype.
/// @throws InvalidArgument that names `hidden`, `weight`, `expert_bias`, `replay_topk_idx`,
/// `past_tokens_per_expert` or `num_sequences`; what Communicator throws.
/// Source: Megatron's top-k router; the loss is the Switch Transformer's.
RouterForward router_forward(const MoeConfig& config, Communicator& comm, const Tensor& hidden,
                             const Tensor& weight, const RouterInput& input = {});

struct RouterOutputGradients {
  Gradient<Tensor> probs;     ///< [T, E] in router_dtype(); entries that were not routed are not read
  Gradient<double> aux_loss;  ///< of the loss with respect to aux_loss; 1 when it is simply added
};

struct RouterGradients {
  Gradient<Tensor> hidden;  ///< [T, H] in router_dtype()
  Gradient<Tensor> weight;  ///< [E, H] in params_dtype, of this rank's tokens: sum it over the ranks
};

/// Local. The auxiliary loss counts as one global loss: its gradient reaches each rank's own scores, the
/// shares f_e are constants. Gradients pass forced logits as if those were computed.
RouterGradients router_backward(const MoeConfig& config, const Tensor& weight, const RouterContext& context,
                                const RouterOutputGradients& grads);

/// bias + moe_router_bias_update_rate * sign(mean load - load), for a bias that makes loads even without a
/// loss.
///
/// Collective. @param bias [E]. @param tokens_per_expert [E], pairs that this rank has routed since the last
/// update. @return [E], the same on every rank.
std::vector<double> updated_expert_bias(const MoeConfig& config, Communicator& comm,
                                        const std::vector<double>& bias,
                                        const std::vector<std::int64_t>& tokens_per_expert);

/// Tokens that an expert takes: ceil(num_pairs / num_experts * capacity_factor), at least min_capacity.
std::int64_t expert_capacity(std::int64_t num_pairs, int num_experts, double capacity_factor,
                             std::int64_t min_capacity = 0);

struct TokenDroppingOptions {
  int router_topk = 0;
  double capacity_factor = 1;
  std::int64_t min_capacity = 0;
  TokenDropPolicy drop_policy = TokenDropPolicy::kProbs;
  bool pad_to_capacity = false;
};

struct DroppedRouting {
  Tensor probs;        ///< [T, E], 0 outside the map
  Tensor routing_map;  ///< int32 [T, E]
};

/// Leaves each expert at most its capacity of tokens, expert_capacity(T * router_topk, ...): those with the
/// largest probs, or the first that are routed to it; among equals the first. With pad_to_capacity exactly
/// that many, tokens that were not routed to it among them. A capacity above T changes nothing.
/// @throws InvalidArgument that names `probs` or `routing_map`.
DroppedRouting apply_router_token_dropping(const Tensor& probs, const Tensor& routing_map,
                                           const TokenDroppingOptions& options);

/// The gradient of the probs: that of the result where the map names the pair, 0 elsewhere.
/// @param routing_map  DroppedRouting::routing_map.
Gradient<Tensor> apply_router_token_dropping_backward(const Gradient<Tensor>& probs,
                                                      const Tensor& routing_map);

}  // namespace flexep::moe
