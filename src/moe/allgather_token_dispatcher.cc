// SPDX-License-Identifier: Apache-2.0
#include "moe/allgather_token_dispatcher.h"

#include <cstring>

#include "moe/dispatch_arguments.h"
#include "moe/flatten.h"
#include "moe/reduce_scatter.h"

namespace flexep::moe {
namespace {

// Copies `num_columns` neighbouring columns of each row.
void copy_columns(const Tensor& from, std::int64_t from_column, const Tensor& to, std::int64_t to_column,
                  std::int64_t num_columns) {
  const auto at = [](const Tensor& matrix, std::int64_t row, std::int64_t column) {
    const auto index = static_cast<std::size_t>(row * matrix.size(1) + column);
    return static_cast<std::byte*>(matrix.data()) + index * size_of(matrix.dtype());
  };
  const std::size_t num_bytes = static_cast<std::size_t>(num_columns) * size_of(from.dtype());
  for (std::int64_t row = 0; row < from.size(0); ++row)
    std::memcpy(at(to, row, to_column), at(from, row, from_column), num_bytes);
}

}  // namespace

AllGatherTokenDispatcher::AllGatherTokenDispatcher(const MoeConfig& config,
                                                   std::shared_ptr<ExpertParallelGroup> group)
    : config_(config), group_(std::move(group)) {
  ranks();  // now, while all ranks are here
}

Tensor AllGatherTokenDispatcher::local_columns(const Tensor& columns) const {
  const int num_local_experts = config_.num_local_experts();
  const int ep_idx = group_->comm().rank() / config_.expert_tensor_parallel_size;
  Tensor local = Tensor::empty({columns.size(0), num_local_experts}, columns.dtype());
  copy_columns(columns, ep_idx * num_local_experts, local, 0, num_local_experts);
  return local;
}

Tokens AllGatherTokenDispatcher::dispatch_preprocess(const Tokens& tokens, const Tensor& routing_map) {
  const Tensor hidden = flatten_tokens(tokens.hidden, config_.dispatched_hidden_size());
  check_routing(config_, hidden.size(0), tokens.probs, routing_map);
  forward_ = {
      .hidden_shape = tokens.hidden.shape(), .probs_dtype = tokens.probs.dtype(), .routing_map = routing_map};
  return {.hidden = hidden, .probs = tokens.probs};
}

Tokens AllGatherTokenDispatcher::token_dispatch(const Tokens& tokens, const AsyncOptions&) {
  const auto num_tokens = static_cast<std::int32_t>(tokens.hidden.size(0));
  forward_.num_tokens_per_rank = group_->comm().all_gather(num_tokens);
  forward_.routing_map = ranks().all_gather(forward_.routing_map);
  const Tokens all{.hidden = ranks().all_gather(tokens.hidden), .probs = ranks().all_gather(tokens.probs)};
  forward_.gathered_shape = all.hidden.shape();
  forward_.dtype = all.hidden.dtype();
  return all;
}

GroupedTokens AllGatherTokenDispatcher::dispatch_postprocess(const Tokens& tokens) {
  auto permuted = permute(
      {.hidden = tokens.hidden, .probs = local_columns(tokens.probs)}, local_columns(forward_.routing_map),
      {.memory = [this](const Shape& shape, DType dtype) { return ranks().empty(shape, dtype); }});
  forward_.permutation = std::move(permuted.permutation);
  return {.tokens = permuted.tokens, .tokens_per_expert = forward_.permutation.tokens_per_expert};
}

Tensor AllGatherTokenDispatcher::combine_preprocess(const Tensor& hidden) {
  return unpermute(hidden, forward_.permutation, ranks().empty(forward_.gathered_shape, hidden.dtype()));
}

Tensor AllGatherTokenDispatcher::token_combine(const Tensor& hidden, const AsyncOptions&) {
  return reduce_scatter_in(forward_.probs_dtype, ranks(), hidden, forward_.num_tokens_per_rank);
}

Tensor AllGatherTokenDispatcher::combine_postprocess(const Tensor& hidden) {
  return hidden.reshape(forward_.hidden_shape);
}

Gradient<Tensor> AllGatherTokenDispatcher::combine_postprocess_backward(const Gradient<Tensor>& grad) {
  return flatten_tokens(grad, config_.dispatched_hidden_size());
}

Gradient<Tensor> AllGatherTokenDispatcher::token_combine_backward(const Gradient<Tensor>& grad) {
  return ranks().all_gather(grad);
}

Gradient<Tensor> AllGatherTokenDispatcher::combine_preprocess_backward(const Gradient<Tensor>& grad) {
  return unpermute_backward(grad, forward_.permutation, empty_expert_rows());
}

TokenGradients AllGatherTokenDispatcher::dispatch_postprocess_backward(const TokenGradients& grads) {
  const auto local =
      permute_backward(grads, forward_.permutation, ranks().empty(forward_.gathered_shape, forward_.dtype));
  const Tensor& local_probs = local.probs;
  Tensor probs = Tensor::zeros({local_probs.size(0), config_.num_moe_experts}, local_probs.dtype());
  const int ep_idx = group_->comm().rank() / config_.expert_tensor_parallel_size;
  copy_columns(local_probs, 0, probs, ep_idx * config_.num_local_experts(), config_.num_local_experts());
  return {.hidden = local.hidden, .probs = probs};
}

TokenGradients AllGatherTokenDispatcher::token_dispatch_backward(const TokenGradients& grads) {
  const auto& counts = forward_.num_tokens_per_rank;
  return {.hidden = reduce_scatter_in(forward_.probs_dtype, ranks(), grads.hidden, counts),
          .probs = ranks().reduce_scatter(grads.probs, counts)};
}

TokenGradients AllGatherTokenDispatcher::dispatch_preprocess_backward(const TokenGradients& grads) {
  return {.hidden = grads.hidden.value().reshape(forward_.hidden_shape), .probs = grads.probs};
}

Tensor AllGatherTokenDispatcher::empty_expert_rows() {
  return ranks().empty({forward_.permutation.sorted_indices.size(0), forward_.gathered_shape[1]},
                       forward_.dtype);
}

}  // namespace flexep::moe
