// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "flexep/moe/experts.h"
#include "flexep/moe/router.h"
#include "flexep/moe/token_dispatcher.h"

namespace flexep::moe {

/// A layer's parameters on one rank, or their gradients. Sharded parameters need no reduction: their gradient
/// is complete on their owner.
template <typename T>
struct MoeParameters {
  T router_weight;           ///< [E, H], the same on every rank: sum its gradient over the ranks
  ExpertWeights<T> experts;  ///< [El, 2F, H] and [El, H, F], this rank's share
};

/// One microbatch's state between forward and backward. Move-only; dropping it frees what it holds.
class MoeContext {
 public:
  struct State;
  explicit MoeContext(std::unique_ptr<State> state);
  ~MoeContext();
  MoeContext(MoeContext&&) noexcept;
  MoeContext& operator=(MoeContext&&) noexcept;
  State& state() const { return *state_; }

 private:
  std::unique_ptr<State> state_;
};

struct MoeForwardOptions {
  /// [E], a permutation: what the router sends to expert e goes to expert_permutation[e] instead. Empty = as
  /// the router says. For ablations: experts that are no better than their neighbours have learned nothing.
  std::vector<int> expert_permutation;
};

struct MoeForward {
  Tensor output;        ///< shape and dtype of hidden
  double aux_loss = 0;  ///< add it to the loss; the same on every rank, see RouterForward
  std::vector<std::int64_t>
      tokens_per_expert;  ///< [E], pairs that this rank routed, before expert_permutation
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
  double router = 0;    ///< scores, top k, auxiliary loss
  double dispatch = 0;  ///< token_dispatch and its mirror image, the backward of token_combine
  double experts = 0;
  double combine = 0;  ///< token_combine and its mirror image, the backward of token_dispatch
};

/// A mixture-of-experts layer: router, token dispatcher, SwiGLU experts, with an explicit backward.
///
/// Several microbatches may be between forward and backward; backwards may come in any order that is the same
/// on all ranks. The loss is one global loss: the sum over ranks of what their outputs contribute, plus
/// aux_loss once. One layer is used by one thread at a time.
class MoeLayer {
 public:
  /// Collective. Weights are uniform with standard deviation init_method_std, a pure function of (seed,
  /// parameter, global position): the same model whatever the number of ranks.
  /// @throws InvalidArgument as MoeConfig::validate and make_token_dispatcher; CollectiveMismatch naming an
  /// option that differs between ranks.
  MoeLayer(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group, std::uint64_t seed);

  /// Collective.
  /// @param hidden  [T, H] or [S, B, H], bf16, fp16 or fp32 (params_dtype fp32) or fp64 (params_dtype fp64); T may
  /// differ between ranks and be 0.
  /// @throws InvalidArgument that names `hidden` or `expert_permutation`; what the dispatcher's steps throw.
  MoeForward forward(const Tensor& hidden, const MoeForwardOptions& options = {});

  /// Collective. Uses the parameters as they are now: update them after the last backward that needs the old
  /// ones.
  MoeGradients backward(MoeContext context, const MoeOutputGradients& grads);

  /// Written through by an optimiser.
  const MoeParameters<Tensor>& parameters() const { return parameters_; }
  const MoeConfig& config() const { return config_; }
  const MoeSeconds& seconds() const { return seconds_; }

 private:
  MoeConfig config_;
  std::shared_ptr<ExpertParallelGroup> group_;
  MoeParameters<Tensor> parameters_;
  MoeSeconds seconds_;
};

}  // namespace flexep::moe
