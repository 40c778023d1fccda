// SPDX-License-Identifier: Apache-2.0
#include "moe/deepepv2_backend.h"

#include "moe/floating.h"
#include "moe/topk.h"

namespace flexep::moe {

Tensor DeepEpV2Backend::setup_metadata(const Tensor& probs) {
  topk_idx_ = topk(probs, config_.moe_router_topk * config_.expert_tensor_parallel_size);
  return gather_columns(probs, topk_idx_);
}

Gradient<Tensor> DeepEpV2Backend::setup_metadata_backward(const Gradient<Tensor>& token_probs) {
  return scatter_columns(token_probs, topk_idx_, num_virtual_experts());
}

Tokens DeepEpV2Backend::dispatch(const Tokens& tokens) {
  // Probabilities travel in fp32; double precision goes all the way only when the rows are double too.
  const DType probs_dtype = tokens.probs.dtype();
  weight_dtype_ = tokens.hidden.dtype() == DType::kFloat64 ? probs_dtype : DType::kFloat32;
  const auto recv = buffer().dispatch({.x = tokens.hidden,
                                       .topk_idx = topk_idx_,
                                       .topk_weights = cast(tokens.probs, weight_dtype_),
                                       .num_experts = num_virtual_experts(),
                                       .expert_alignment = 1,  // rows without gaps: experts need none
                                       .num_sms = config_.flex_dispatcher_num_sms(),
                                       .do_expand = do_expand_});
  handle_ = recv.handle;
  recv_topk_idx_ = recv.topk_idx;
  recv_shape_ = recv.x.shape();
  dtype_ = recv.x.dtype();
  return {.hidden = recv.x, .probs = cast(recv.topk_weights, probs_dtype)};
}

// From here on the handle says how wide the kernels are: num_sms as the dispatch resolved it, not the option
// again.

TokenGradients DeepEpV2Backend::dispatch_backward(const TokenGradients& received) {
  const Tensor& grad_probs = received.probs;
  const auto sums = buffer().combine(
      {.x = received.hidden, .handle = handle_, .topk_weights = cast(grad_probs, weight_dtype_)});
  return {.hidden = sums.x, .probs = cast(sums.topk_weights, grad_probs.dtype())};
}

Tensor DeepEpV2Backend::combine(const Tensor& received) {
  return buffer().combine({.x = received, .handle = handle_}).x;
}

Gradient<Tensor> DeepEpV2Backend::combine_backward(const Gradient<Tensor>& sums) {
  return buffer().dispatch({.x = sums, .handle = handle_}).x;
}

GroupedTokens DeepEpV2CompactBackend::permute(const Tokens& received) {
  const Tensor routing_map = multihot(recv_topk_idx(), num_local_experts());
  const Tensor probs = scatter_columns(received.probs, recv_topk_idx(), num_local_experts());
  auto permuted = moe::permute({.hidden = received.hidden, .probs = probs}, routing_map);
  permutation_ = std::move(permuted.permutation);
  return {.tokens = permuted.tokens, .tokens_per_expert = permutation_.tokens_per_expert};
}

TokenGradients DeepEpV2CompactBackend::permute_backward(const TokenGradients& permuted) {
  const auto grads = moe::permute_backward(permuted, permutation_, buffer().empty(recv_shape(), dtype()));
  return {.hidden = grads.hidden, .probs = gather_columns(grads.probs, recv_topk_idx())};
}

Tensor DeepEpV2CompactBackend::unpermute(const Tensor& permuted) {
  return moe::unpermute(permuted, permutation_, buffer().empty(recv_shape(), dtype()));
}

Gradient<Tensor> DeepEpV2CompactBackend::unpermute_backward(const Gradient<Tensor>& received) {
  return moe::unpermute_backward(received, permutation_);
}

Tensor DeepEpV2CompactBackend::empty_expert_rows() {
  return Tensor::empty({permutation_.sorted_indices.size(0), recv_shape()[1]}, dtype());
}

GroupedTokens DeepEpV2ExpandedBackend::permute(const Tokens& received) {
  const auto counts = handle().num_recv_tokens_per_expert();
  return {.tokens = received, .tokens_per_expert = {counts.begin(), counts.end()}};
}

Tensor DeepEpV2ExpandedBackend::empty_expert_rows() {
  return buffer().empty(recv_shape(), dtype());
}

}  // namespace flexep::moe
