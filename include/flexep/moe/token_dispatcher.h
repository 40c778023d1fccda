// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <string_view>

#include "flexep/moe/expert_parallel_group.h"
#include "flexep/moe/moe_config.h"
#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// How a step that communicates runs, under Megatron's names and with its defaults.
struct AsyncOptions {
  /// On the buffer's communication thread: the step returns when it knows the shape of its result, whose rows
  /// may be on their way until the next step, which waits for them. The caller's thread is free meanwhile,
  /// for shared experts, say. Until then nobody reads the result, and inputs stay as they are.
  bool async_finish = true;
  /// With async_finish: the operation waits for nothing that the caller does after the call.
  bool allocate_on_comm_stream = true;
};

/// The step returns when its rows are there: a thread less to wake where there is nothing to do meanwhile.
inline constexpr AsyncOptions kSynchronous{.async_finish = false, .allocate_on_comm_stream = false};

/// Carries one microbatch through a MoE layer, to the experts and back, forward and backward.
///
///   hidden, probs ─ dispatch_preprocess ─ token_dispatch ─ dispatch_postprocess ─► experts ─┐
///   output ◄─ combine_postprocess ─ token_combine ─ combine_preprocess ◄────────────────────┘
///
/// Each step has a backward that takes the gradients of what the step returned and returns those of what it
/// took; steps run in this order, backwards in the opposite one. What a backward needs lives in this object:
/// make one (cheap) for each microbatch, have as many in flight as a pipeline wants, drop it when its
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
  /// @param tokens       hidden [..., H], two or three dimensions (bf16, fp16, fp32, fp64), H =
  /// MoeConfig::dispatched_hidden_size(); probs [T, E] (fp32, fp64), T tokens in hidden. Not modified.
  /// @param routing_map  int32 [T, E], not 0 = goes there. The backends deepep, deepepv2 and ncclep do not
  /// read it, as in Megatron, unless moe_respect_routing_map is set: they send each token to the top k of its
  /// probs.
  /// On a GPU hidden is there, and probs and map are the host's, or there, too, where the router decides
  /// there (docs/moe.md); from the dispatch to its backward probs are on the GPU, and their gradients end
  /// where they came from.
  /// @return hidden [T, H], probs in the backend's own form.
  /// @throws InvalidArgument that names `hidden`, `probs` or `routing_map`.
  virtual Tokens dispatch_preprocess(const Tokens& tokens, const Tensor& routing_map) = 0;
  /// Sends. Collective. @param tokens  as dispatch_preprocess returned them; probs may be left out after
  /// set_cudagraph_attr.
  /// @param options  of deepep and deepepv2; others are done when they return.
  /// @return what this rank received, in the dispatcher's own layout.
  /// @throws what ElasticBuffer::dispatch or RowCollectives throw; InvalidArgument: allocate_on_comm_stream
  /// without async_finish (deepep), "moe_expert_rank_capacity_factor" on all ranks (ncclep, too many tokens
  /// for one of them).
  virtual Tokens token_dispatch(const Tokens& tokens, const AsyncOptions& options = {}) = 0;
  /// @return hidden [rows, H] grouped by local expert; in each ascending by (source rank, source token), with
  /// alltoall by (tp_idx, ep_idx, token) of the source; probs [rows] in the dtype of the probs given to
  /// dispatch_preprocess. Rows that only pad an expert to a multiple have probability 0, and nothing that is
  /// computed from them is read again.
  virtual GroupedTokens dispatch_postprocess(const Tokens& tokens) = 0;

  /// @param hidden  [rows, H], the experts' weighted output, row for row as dispatch_postprocess gave them.
  virtual Tensor combine_preprocess(const Tensor& hidden) = 0;
  /// Brings back. Collective. @param hidden  as combine_preprocess returned it. @return rows of this rank's
  /// tokens, in the dispatcher's own layout. @throws as token_dispatch.
  virtual Tensor token_combine(const Tensor& hidden, const AsyncOptions& options = {}) = 0;
  /// @return the sums in the shape of the hidden given to dispatch_preprocess.
  virtual Tensor combine_postprocess(const Tensor& hidden) = 0;

  // Gradients have the shapes and types of the values that they belong to.

  /// @param grad  [..., H], the shape of combine_postprocess's result. @throws InvalidArgument that names
  /// `hidden`.
  virtual Gradient<Tensor> combine_postprocess_backward(const Gradient<Tensor>& grad) = 0;
  /// Collective: sends each token's gradient to its experts' ranks.
  virtual Gradient<Tensor> token_combine_backward(const Gradient<Tensor>& grad) = 0;
  /// @return [rows, H], of the experts' output; of padding 0 or not meant to be read.
  virtual Gradient<Tensor> combine_preprocess_backward(const Gradient<Tensor>& grad) = 0;

  /// @param grads  hidden [rows, H] and probs [rows], of what dispatch_postprocess returned; not read where
  /// rows are padding.
  virtual TokenGradients dispatch_postprocess_backward(const TokenGradients& grads) = 0;
  /// Collective: brings the gradients of rows and probabilities back to the tokens' ranks.
  virtual TokenGradients token_dispatch_backward(const TokenGradients& grads) = 0;
  /// @return hidden in its original shape; probs [T, E], 0 for pairs that were not sent.
  virtual TokenGradients dispatch_preprocess_backward(const TokenGradients& grads) = 0;

  /// Uninitialised memory of the shape of dispatch_postprocess's rows, for the experts' output or for their
  /// input's gradient: where the next step sends rows as they are this is memory that it sends from without a
  /// copy.
  virtual Tensor empty_expert_rows() = 0;

  /// Whether this rank has dropped pairs for want of budget (hybridep with moe_expert_rank_capacity_factor)
  /// in any dispatch of the group since ExpertParallelGroup::reset_over_budget; nothing without a budget.
  /// Local.
  virtual std::optional<bool> check_over_budget() const { return std::nullopt; }

  /// A tensor that dispatch_preprocess leaves for token_dispatch, by the path that Megatron captures it
  /// under:
  /// "_comm_manager.token_probs" and "_comm_manager.token_indices" (deepep, deepepv2, ncclep), or
  /// "_comm_manager.routing_map" (hybridep). No tensor when there is none at the path.
  Tensor get_cudagraph_attr(std::string_view path);
  /// @throws InvalidArgument ("path") when the dispatcher has no such attribute.
  void set_cudagraph_attr(std::string_view path, const Tensor& value);

  /// Drops what is kept of a forward: tensors are freed, and the steps that need them are errors until the
  /// next dispatch_preprocess.
  virtual void reset_transient_forward_state() = 0;

 protected:
  /// Where the attribute of this path is; null when there is none.
  virtual Tensor* find_cudagraph_attr(std::string_view path);
};

/// The dispatcher that `config` names, for one microbatch. Cheap; local, but for the first alltoall or
/// allgather dispatcher of a group and tensor parallel size, which all ranks make together.
/// @throws InvalidArgument as MoeConfig::validate, and when the parallel sizes do not multiply to the number
/// of ranks ("expert_model_parallel_size").
std::unique_ptr<TokenDispatcher> make_token_dispatcher(const MoeConfig& config,
                                                       std::shared_ptr<ExpertParallelGroup> group);

}  // namespace flexep::moe
