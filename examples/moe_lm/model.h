// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "flexep/moe/moe_layer.h"
#include "moe_lm/batch.h"
#include "moe_lm/embedding.h"
#include "moe_lm/linear.h"
#include "moe_lm/moe_block.h"
#include "moe_lm/rms_norm.h"

namespace moe_lm {

struct ModelConfig {
  flexep::moe::MoeConfig moe;
  int num_blocks = 2;
  int embedding_dim = 16;
  /// Most samples that one pass of one rank takes.
  std::int64_t max_samples = 0;
  std::uint64_t seed = 0;
};

/// What one pass over a rank's samples gives.
struct PassResult {
  double loss = 0;      ///< sum over this rank's samples, nats
  double aux_loss = 0;  ///< sum over the blocks' load balancing losses; the same on every rank
  std::vector<std::vector<std::int64_t>> tokens_per_expert;  ///< [block][expert], pairs that this rank routed
};

/// The language model: contexts -> embedding -> dense -> residual MoE blocks -> RMSNorm -> dense -> logits of
/// the next byte.
///
/// Activations live in memory that is allocated once. Passes are collective: every rank makes them, in the
/// same order.
template <typename T>
class ByteModel {
 public:
  /// Collective.
  ByteModel(const ModelConfig& config, std::shared_ptr<flexep::moe::ExpertParallelGroup> group);
  ByteModel(const ByteModel&) = delete;
  ByteModel& operator=(const ByteModel&) = delete;

  /// Forward only.
  PassResult evaluate(const Batch& batch, Ablation ablation = Ablation::kNone);

  /// Forward and backward of: loss_scale * (all ranks' losses) + aux losses. Sets the gradient of every
  /// parameter.
  PassResult train(const Batch& batch, double loss_scale);

  /// After each update of the parameters. Collective.
  void finish_step();

  const ParameterList& parameters() const { return parameters_; }
  /// Seconds that this rank has spent in dispatch and in combine, since construction.
  double dispatch_seconds() const;
  double combine_seconds() const;

 private:
  /// Views of the activation memory for the samples of one pass.
  struct Activations {
    flexep::Tensor embedded;             ///< [n, kContextBytes * embedding_dim]
    std::vector<flexep::Tensor> hidden;  ///< [n, hidden]: before each block, and after the last
    flexep::Tensor normed;               ///< [n, hidden]: what the last dense layer sees
    flexep::Tensor logits;               ///< [n, 256]

    Activations rows(std::int64_t num_samples) const;
  };

  static Activations allocate(const ModelConfig& config);
  void initialize(const ModelConfig& config);
  PassResult forward(const Batch& batch, Ablation ablation, bool is_training, const Activations& a);
  void backward(const Batch& batch, const Activations& a, const Activations& grad);

  ByteEmbedding<T> embedding_;
  Linear<T> input_;
  std::deque<MoeBlock<T>> blocks_;  // a deque, since blocks do not move
  RmsNorm<T> norm_;
  Linear<T> output_;
  ParameterList parameters_;
  Activations activations_;
  Activations gradients_;
};

extern template class ByteModel<float>;
extern template class ByteModel<double>;

}  // namespace moe_lm
