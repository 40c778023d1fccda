// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// How a FlexTokenDispatcher moves one microbatch: Megatron's dispatch manager. Made for one microbatch;
/// keeps what its backward needs.
///
/// Experts are virtual ones here: V = tensor ranks * E of them, each on one rank, rank r owning [r * El, (r +
/// 1) * El). Each forward is followed by its backward, which takes the gradients of what the forward returned
/// and returns those of what it took.
class FlexBackend {
 public:
  virtual ~FlexBackend() = default;

  /// Chooses what is sent. @param probs [T, V]. @return the chosen probabilities, in the form that dispatch
  /// sends.
  virtual Tensor setup_metadata(const Tensor& probs) = 0;
  virtual Gradient<Tensor> setup_metadata_backward(const Gradient<Tensor>& token_probs) = 0;

  /// Collective. @param tokens hidden [T, H], probs as setup_metadata returned them. @return what this rank
  /// received.
  virtual Tokens dispatch(const Tokens& tokens) = 0;
  virtual TokenGradients dispatch_backward(const TokenGradients& received) = 0;

  /// From what was received to rows grouped by local expert.
  virtual GroupedTokens permute(const Tokens& received) = 0;
  virtual TokenGradients permute_backward(const TokenGradients& permuted) = 0;

  /// From rows grouped by local expert to rows as they were received.
  virtual Tensor unpermute(const Tensor& permuted) = 0;
  virtual Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& received) = 0;

  /// Collective. @return [T, H], sums.
  virtual Tensor combine(const Tensor& received) = 0;
  virtual Gradient<Tensor> combine_backward(const Gradient<Tensor>& sums) = 0;

  /// See TokenDispatcher::empty_expert_rows.
  virtual Tensor empty_expert_rows() = 0;
};

}  // namespace flexep::moe
