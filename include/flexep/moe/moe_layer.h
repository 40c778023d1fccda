// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "flexep/moe/experts.h"
#include "flexep/moe/router.h"
#include "flexep/moe/token_dispatcher.h"

namespace flexep::moe {

/// Projections around the experts, with moe_latent_size L; else no tensors.
template <typename T>
struct LatentProjections {
  T down;  ///< [L, H], before the dispatch
  T up;    ///< [H, L], after the combine
};

/// The expert that every token visits, with moe_shared_expert_intermediate_size S; else no tensors.
template <typename T>
struct SharedExpertWeights {
  T fc1;   ///< [2S, H]: rows 0 .. S - 1 are the gate of SwiGLU, the others the up projection
  T fc2;   ///< [H, S]
  T gate;  ///< [1, H], with moe_shared_expert_gate; else no tensor
};

/// A layer's parameters on one rank, or their gradients. The experts' are this rank's share, and their
/// gradient is complete; all others are the same on every rank: sum their gradients over the ranks.
template <typename T>
struct MoeParameters {
  T router_weight;           ///< [E, H]
  ExpertWeights<T> experts;  ///< [El, 2F, L or H] and [El, L or H, F]
  LatentProjections<T> latent;
  SharedExpertWeights<T> shared_expert;
};

/// One microbatch's state between forward and backward. Move-only; dropping it frees what it holds.
class MoeContext {
 public:
  struct State;
  explicit MoeContext(std::unique_ptr<State> state);
  ~MoeContext();
  MoeContext(MoeContext&&) noexcept;
  MoeContext& operator=(MoeContext&&) noexcept;
  /// False once it has been moved from, as by MoeLayer::backward.
  bool has_state() const { return state_ != nullptr; }
  State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

struct MoeForwardOptions {
  /// [E], a permutation: what the router sends to expert e goes to expert_permutation[e] instead. Empty = as
  /// the router says. For ablations: experts that are no better than their neighbours have learned nothing.
  std::vector<int> expert_permutation;
  /// MoeForward::topk_idx of an earlier forward: its choice of experts is taken again, with the weights that
  /// this router gives. Needs moe_enable_routing_replay.
  Tensor replay_topk_idx;
  /// False for an evaluation: no jitter, and its load counts for no expert bias and no later loss.
  bool is_training = true;
};

struct MoeForward {
  Tensor output;                   ///< shape and dtype of hidden
  double aux_loss = 0;             ///< add it to the loss; the same on every rank, see RouterForward
  double load_balancing_loss = 0;  ///< a part of aux_loss
  double z_loss = 0;               ///< the rest of it
  std::vector<std::int64_t>
      tokens_per_expert;  ///< [E], pairs that this rank routed, before capacity and expert_permutation
  Tensor topk_idx;        ///< int64 [T, K], the router's choice, for replay_topk_idx
  /// Whether this rank has dropped pairs; see TokenDispatcher::check_over_budget.
  std::optional<bool> over_budget;
  MoeContext context;
};

struct MoeOutputGradients {
  Gradient<Tensor> output;    ///< shape and dtype of the output
  Gradient<double> aux_loss;  ///< 1 when aux_loss is simply added to the loss
};

struct MoeGradients {
  Gradient<Tensor> hidden;  ///< shape and dtype of hidden
  MoeParameters<Gradient<Tensor>> parameters;
};

/// Seconds that this rank has spent since construction, forward and backward. A collective's time includes
/// waiting for others.
struct MoeSeconds {
  double router = 0;        ///< logits, scores, top k, auxiliary loss
  double router_gemms = 0;  ///< a part of router: its matrix products
  double dispatch = 0;  ///< the dispatcher's steps to the experts, permutation included; backward of combine
  double experts = 0;   ///< matrix products, activation, and the conversion of narrow rows between them
  double combine = 0;   ///< its steps back from them; backward: of dispatch
  double shared_expert = 0;  ///< waiting for the shared expert; all of its time without overlap
};

/// A mixture-of-experts layer: router, token dispatcher, SwiGLU experts, with an explicit backward.
///
/// Several microbatches may be between forward and backward; backwards may come in any order that is the same
/// on all ranks. The loss is one global loss: the sum over ranks of what their outputs contribute, plus
/// aux_loss once. One layer is used by one thread at a time.
///
/// On a GPU (ExpertParallelGroup's device) hidden, output, parameters and their gradients are tensors of that
/// GPU, and everything is in the order of the thread's current stream; MoeForward::topk_idx and
/// MoeForwardOptions::replay_topk_idx are the host's. docs/moe.md says which options it has there. The host
/// goes on before the GPU is done: what fails late (a rank that does not come in time) is thrown by the next
/// forward, or by check() of the group's buffer, and rows mean nothing then.
class MoeLayer {
 public:
  /// Collective. Weights are uniform with standard deviation init_method_std, a pure function of (seed,
  /// parameter, global position): the same model whatever the number of ranks.
  /// @throws InvalidArgument as MoeConfig::validate and make_token_dispatcher; CollectiveMismatch naming an
  /// option that differs between ranks; InvalidArgument for an option that the group's device lacks.
  MoeLayer(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group, std::uint64_t seed);

  /// Collective.
  /// @param hidden  [T, H] or [S, B, H], bf16, fp16 or fp32 (params_dtype fp32) or fp64 (params_dtype fp64);
  /// T may differ between ranks and be 0. On the layer's device; contiguous on a GPU.
  /// @throws InvalidArgument that names `hidden`, `expert_permutation` or `replay_topk_idx`, PeerError with
  /// the same text on the other ranks; what the dispatcher's steps throw.
  /// Cost: 3 * rows * H * F multiply-adds in the experts, T * H * E in the router; a dispatch and a combine
  /// of [T, H] (alltoall: of a row for each pair), an exchange of a byte, and with a loss one of 2E + 4
  /// doubles.
  MoeForward forward(const Tensor& hidden, const MoeForwardOptions& options = {});

  /// Collective. Uses the parameters as they are now: update them after the last backward that needs the old
  /// ones. @throws InvalidArgument that names `context` (used before) or `output`, PeerError with the same
  /// text on the other ranks. Cost: twice the products of the forward, and its exchanges of rows.
  MoeGradients backward(MoeContext context, const MoeOutputGradients& grads);

  /// Written through by an optimiser.
  const MoeParameters<Tensor>& parameters() const { return parameters_; }

  /// [E], with moe_router_enable_expert_bias; else empty. No parameter: it has no gradient.
  const std::vector<double>& expert_bias() const { return expert_bias_; }
  /// After an optimiser's step: moves the bias towards an even load of all tokens since the last update.
  /// Collective. Without moe_router_enable_expert_bias nothing happens.
  void update_expert_bias();
  /// After an optimiser's step: global_aux_loss forgets the load of earlier microbatches. Local.
  void reset_global_aux_loss_tracker() { past_tokens_per_expert_.clear(); }

  const MoeConfig& config() const { return config_; }
  const MoeSeconds& seconds() const { return seconds_; }

 private:
  RouterForward route(const Tensor& rows, std::int64_t num_sequences, const MoeForwardOptions& options);
  void remember_load(const RouterForward& routed);

  MoeConfig config_;
  std::shared_ptr<ExpertParallelGroup> group_;
  std::uint64_t seed_;
  std::uint64_t num_forwards_ = 0;  ///< makes each forward's randomness its own
  MoeParameters<Tensor> parameters_;
  std::vector<double> expert_bias_;
  std::vector<std::int64_t> tokens_since_bias_update_;
  std::vector<double> past_tokens_per_expert_;
  MoeSeconds seconds_;
};

}  // namespace flexep::moe
