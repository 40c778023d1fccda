// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "flexep/communicator.h"
#include "flexep/elastic_buffer.h"
#include "flexep/moe/moe_config.h"
#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// The ranks that share a layer's experts, and the buffer that moves tokens between them. Made once, shared
/// by every MoE layer.
///
/// Member index = ep_idx * expert_tensor_parallel_size + tp_idx. Used by one thread at a time.
class ExpertParallelGroup {
 public:
  /// Collective over `comm`. @throws what ElasticBuffer throws.
  explicit ExpertParallelGroup(const Communicator& comm) : comm_(comm.duplicate()), buffer_(comm) {}

  Communicator& comm() { return comm_; }
  ElasticBuffer& buffer() { return buffer_; }

 private:
  Communicator comm_;
  ElasticBuffer buffer_;
};

/// Carries one microbatch through a MoE layer, to the experts and back, forward and backward.
///
///   hidden, probs ─ dispatch_preprocess ─ token_dispatch ─ dispatch_postprocess ─► experts ─┐
///   output ◄─ combine_postprocess ─ token_combine ─ combine_preprocess ◄────────────────────┘
///
/// Each step has a backward that takes the gradients of what the step returned and returns those of what it
/// took; steps run in this order, backwards in the opposite one. What a backward needs lives in this object:
/// make one (cheap, local) for each microbatch, have as many in flight as a pipeline wants, drop it when its
/// backward is done, or at once when there is none. token_dispatch, token_combine and their backwards are
/// collective: all ranks, zero tokens included, call them in the same order.
///
/// Combine sums and never weights: the experts' output must already be scaled by the permuted probs.
/// With expert tensor parallelism every rank of a token's expert group gets the token, and the result is the
/// sum over those ranks.
class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;

  /// Brings tokens into the form in which they are sent.
  /// @param tokens       hidden [..., H], two or three dimensions (bf16, fp32, fp64); probs [T, E] (fp32,
  /// fp64), T tokens in hidden.
  /// @param routing_map  int32 [T, E]. The deepepv2 backend does not read it, as in Megatron: it sends each
  /// token to the top k of its probs.
  /// @return hidden [T, H], probs in the backend's own form.
  /// @throws InvalidArgument that names `hidden`, `probs` or `routing_map`.
  virtual Tokens dispatch_preprocess(const Tokens& tokens, const Tensor& routing_map) = 0;
  /// Sends. @return what this rank received, in the backend's own layout.
  /// @throws what ElasticBuffer::dispatch throws.
  virtual Tokens token_dispatch(const Tokens& tokens) = 0;
  /// @return hidden [rows, H] grouped by local expert, (source rank, source token) ascending in each; probs
  /// [rows] in the dtype of the
  ///         probs given to dispatch_preprocess.
  virtual GroupedTokens dispatch_postprocess(const Tokens& tokens) = 0;

  /// @param hidden  [rows, H], the experts' weighted output, row for row as dispatch_postprocess gave them.
  virtual Tensor combine_preprocess(const Tensor& hidden) = 0;
  /// Brings back. @return [T, H]. @throws what ElasticBuffer::combine throws.
  virtual Tensor token_combine(const Tensor& hidden) = 0;
  /// @return the sums in the shape of the hidden given to dispatch_preprocess.
  virtual Tensor combine_postprocess(const Tensor& hidden) = 0;

  virtual Gradient<Tensor> combine_postprocess_backward(const Gradient<Tensor>& grad) = 0;
  virtual Gradient<Tensor> token_combine_backward(const Gradient<Tensor>& grad) = 0;
  virtual Gradient<Tensor> combine_preprocess_backward(const Gradient<Tensor>& grad) = 0;

  virtual TokenGradients dispatch_postprocess_backward(const TokenGradients& grads) = 0;
  virtual TokenGradients token_dispatch_backward(const TokenGradients& grads) = 0;
  /// @return hidden in its original shape; probs [T, E], 0 for pairs that were not sent.
  virtual TokenGradients dispatch_preprocess_backward(const TokenGradients& grads) = 0;

  /// Uninitialised memory of the shape of dispatch_postprocess's rows, for the experts' output or for their
  /// input's gradient: where the next step sends rows as they are this is memory that it sends from without a
  /// copy.
  virtual Tensor empty_expert_rows() = 0;
};

/// The dispatcher that `config` names, for one microbatch. Local and cheap.
/// @throws InvalidArgument when the parallel sizes do not multiply to the number of ranks
/// ("expert_model_parallel_size").
std::unique_ptr<TokenDispatcher> make_token_dispatcher(const MoeConfig& config,
                                                       std::shared_ptr<ExpertParallelGroup> group);

}  // namespace flexep::moe
