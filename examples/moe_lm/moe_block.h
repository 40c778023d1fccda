// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "flexep/moe/moe_layer.h"
#include "moe_lm/rms_norm.h"

namespace moe_lm {

/// What to break in the MoE blocks, to see what they are good for.
enum class Ablation {
  kNone,
  kZeroMoe,          ///< the MoE layers' output is zero: only the residual path is left
  kShuffledExperts,  ///< tokens go to other experts than the router chose, with the weights that it gave
};

/// out = hidden + MoE(RMSNorm(hidden)).
template <typename T>
class MoeBlock {
 public:
  /// Collective.
  MoeBlock(const std::string& name, const flexep::moe::MoeConfig& config,
           std::shared_ptr<flexep::moe::ExpertParallelGroup> group, std::int64_t max_samples,
           std::uint64_t seed);

  struct Statistics {
    double aux_loss = 0;
    std::vector<std::int64_t> tokens_per_expert;  ///< [E], pairs that this rank routed
  };

  /// hidden [n, hidden] -> out [n, hidden]. Collective.
  Statistics forward(const flexep::Tensor& hidden, const flexep::Tensor& out, Ablation ablation,
                     bool is_training);

  /// The backward of the last forward, from the same hidden. Sets the parameters' gradients and grad_hidden.
  /// Collective.
  void backward(const flexep::Tensor& hidden, const flexep::Tensor& grad_out,
                const flexep::Tensor& grad_hidden);

  void append_parameters(ParameterList& list);

  /// After an update of the parameters: gives them to a layer on a GPU; what the router learns without a
  /// gradient. Collective.
  void finish_step();
  const flexep::moe::MoeSeconds& seconds() const { return moe_.seconds(); }

 private:
  RmsNorm<T> norm_;
  flexep::Device device_;  ///< where the layer computes; everything else here is the host's
  flexep::moe::MoeLayer moe_;
  std::vector<Parameter> replicated_;  ///< the router's, and those of options that add some
  Parameter fc1_;
  Parameter fc2_;
  flexep::Tensor normed_;  ///< [max_samples, hidden]
  std::optional<flexep::moe::MoeContext> context_;
};

extern template class MoeBlock<float>;
extern template class MoeBlock<double>;

}  // namespace moe_lm
