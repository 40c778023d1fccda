// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <optional>
#include <string_view>

#include "flexep/moe/token_dispatcher.h"
#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// How a FlexTokenDispatcher moves one microbatch: Megatron's dispatch manager. Made for one microbatch;
/// keeps what its backward needs.
///
/// What is sent goes to virtual experts: V = tensor ranks * E of them, each on one rank, rank r owning [r *
/// El, (r + 1) * El). Each forward is followed by its backward, which takes the gradients of what the forward
/// returned and returns those of what it took. What a collective step returns may still be on its way until
/// wait().
class FlexBackend {
 public:
  virtual ~FlexBackend() = default;

  /// Chooses what is sent. @param probs [T, E]. @param routing_map int32 [T, E]. @return the chosen
  /// probabilities, in the form that dispatch sends.
  virtual Tensor setup_metadata(const Tensor& probs, const Tensor& routing_map) = 0;
  virtual Gradient<Tensor> setup_metadata_backward(const Gradient<Tensor>& token_probs) = 0;

  /// Collective. @param tokens hidden [T, H], probs as setup_metadata returned them. @return what this rank
  /// received.
  virtual Tokens dispatch(const Tokens& tokens, const AsyncOptions& options) = 0;
  virtual TokenGradients dispatch_backward(const TokenGradients& received) = 0;

  /// From what was received to rows grouped by local expert.
  virtual GroupedTokens permute(const Tokens& received) = 0;
  virtual TokenGradients permute_backward(const TokenGradients& permuted) = 0;

  /// From rows grouped by local expert to rows as they were received.
  virtual Tensor unpermute(const Tensor& permuted) = 0;
  virtual Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& received) = 0;

  /// Collective. @return [T, H], sums.
  virtual Tensor combine(const Tensor& received, const AsyncOptions& options) = 0;
  virtual Gradient<Tensor> combine_backward(const Gradient<Tensor>& sums) = 0;

  /// Returns when what the last collective step returned is there. @throws what that step failed with.
  virtual void wait() = 0;

  /// See TokenDispatcher::empty_expert_rows.
  virtual Tensor empty_expert_rows() = 0;
  /// See TokenDispatcher::check_over_budget.
  virtual std::optional<bool> check_over_budget() const = 0;
  /// The tensor of this name that setup_metadata leaves for dispatch; null when there is none.
  virtual Tensor* find_cudagraph_attr(std::string_view name) = 0;
  /// Drops everything that it keeps of a microbatch.
  virtual void reset() = 0;
};

}  // namespace flexep::moe
