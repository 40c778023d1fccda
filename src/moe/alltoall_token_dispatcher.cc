// SPDX-License-Identifier: Apache-2.0
#include "moe/alltoall_token_dispatcher.h"

#include <cstring>

#include "moe/dispatch_arguments.h"
#include "moe/expert_alignment.h"
#include "moe/flatten.h"
#include "moe/reduce_scatter.h"

namespace flexep::moe {

AllToAllTokenDispatcher::AllToAllTokenDispatcher(const MoeConfig& config,
                                                 std::shared_ptr<ExpertParallelGroup> group)
    : config_(config), group_(std::move(group)) {
  ranks();  // now, while all ranks are here
}

Tokens AllToAllTokenDispatcher::dispatch_preprocess(const Tokens& tokens, const Tensor& routing_map) {
  const Tensor hidden = flatten_tokens(tokens.hidden, config_.dispatched_hidden_size());
  check_routing(config_, hidden.size(0), tokens.probs, routing_map);
  // Upstream pads the map with pairs of probability 0; rows of zeros that belong to no token cost the same,
  // and what experts make of them reaches nobody.
  auto permuted =
      permute({.hidden = hidden, .probs = tokens.probs}, routing_map,
              {.align_size = router_alignment(config_),
               .memory = [this](const Shape& shape, DType dtype) { return empty_to_send(shape, dtype); }});
  forward_ = {.hidden_shape = tokens.hidden.shape(),
              .probs_dtype = tokens.probs.dtype(),
              .permutation = std::move(permuted.permutation)};
  return permuted.tokens;
}

Tokens AllToAllTokenDispatcher::token_dispatch(const Tokens& tokens, const AsyncOptions&) {
  forward_.plan = plan_alltoall(config_, group_->comm().rank(), gather_counts());
  return {.hidden = send(tokens.hidden), .probs = send(tokens.probs)};
}

GroupedTokens AllToAllTokenDispatcher::dispatch_postprocess(const Tokens& tokens) {
  forward_.expert_shape = tokens.hidden.shape();
  forward_.dtype = tokens.hidden.dtype();
  return {.tokens = {.hidden = sort_by_expert(tokens.hidden), .probs = sort_by_expert(tokens.probs)},
          .tokens_per_expert = forward_.plan.tokens_per_expert};
}

Tensor AllToAllTokenDispatcher::combine_preprocess(const Tensor& hidden) {
  return unsort(hidden);
}

Tensor AllToAllTokenDispatcher::token_combine(const Tensor& hidden, const AsyncOptions&) {
  return bring_back(hidden);
}

Tensor AllToAllTokenDispatcher::combine_postprocess(const Tensor& hidden) {
  const Shape shape{forward_.permutation.num_rows, hidden.size(1)};
  return unpermute(hidden, forward_.permutation, empty_to_send(shape, hidden.dtype()))
      .reshape(forward_.hidden_shape);
}

Gradient<Tensor> AllToAllTokenDispatcher::combine_postprocess_backward(const Gradient<Tensor>& grad) {
  const Tensor flat = flatten_tokens(grad, config_.dispatched_hidden_size());
  const Permutation& permutation = forward_.permutation;
  const Shape shape{permutation.sorted_indices.size(0), flat.size(1)};
  return unpermute_backward(flat, permutation, empty_to_send(shape, flat.dtype()));
}

Gradient<Tensor> AllToAllTokenDispatcher::token_combine_backward(const Gradient<Tensor>& grad) {
  return send(grad);
}

Gradient<Tensor> AllToAllTokenDispatcher::combine_preprocess_backward(const Gradient<Tensor>& grad) {
  return sort_by_expert(grad);
}

TokenGradients AllToAllTokenDispatcher::dispatch_postprocess_backward(const TokenGradients& grads) {
  return {.hidden = unsort(grads.hidden), .probs = unsort(grads.probs)};
}

TokenGradients AllToAllTokenDispatcher::token_dispatch_backward(const TokenGradients& grads) {
  return {.hidden = bring_back(grads.hidden), .probs = bring_back(grads.probs)};
}

TokenGradients AllToAllTokenDispatcher::dispatch_preprocess_backward(const TokenGradients& grads) {
  const Tensor& rows = grads.hidden;
  const Shape shape{forward_.permutation.num_rows, rows.size(1)};
  const auto tokens = permute_backward(grads, forward_.permutation, empty_to_send(shape, rows.dtype()));
  return {.hidden = tokens.hidden.value().reshape(forward_.hidden_shape), .probs = tokens.probs};
}

Tensor AllToAllTokenDispatcher::empty_expert_rows() {
  return empty_to_bring_back(forward_.expert_shape, forward_.dtype);
}

std::vector<std::vector<std::int32_t>> AllToAllTokenDispatcher::gather_counts() const {
  std::vector<std::vector<std::int32_t>> counts;
  const auto& mine = forward_.permutation.tokens_per_expert;
  for (const auto& bytes : group_->comm().all_gather_bytes(std::as_bytes(std::span(mine)))) {
    counts.emplace_back(bytes.size() / sizeof(std::int32_t));
    std::memcpy(counts.back().data(), bytes.data(), bytes.size());
  }
  return counts;
}

Tensor AllToAllTokenDispatcher::send(const Tensor& rows) const {
  Tensor received = rows;
  if (config_.expert_model_parallel_size > 1)
    received = ranks().expert_parallel.all_to_all(received, forward_.plan.num_sent);
  if (config_.expert_tensor_parallel_size > 1) received = ranks().tensor_parallel.all_gather(received);
  return received;
}

Tensor AllToAllTokenDispatcher::bring_back(const Tensor& rows) const {
  const AllToAllPlan& plan = forward_.plan;
  Tensor sums = rows;
  if (config_.expert_tensor_parallel_size > 1)
    sums = reduce_scatter_in(forward_.probs_dtype, ranks().tensor_parallel, sums, plan.num_gathered);
  if (config_.expert_model_parallel_size > 1)
    sums = ranks().expert_parallel.all_to_all(sums, plan.num_received);
  return sums;
}

Tensor AllToAllTokenDispatcher::sort_by_expert(const Tensor& rows) const {
  if (is_sorted_on_arrival()) return rows;
  return sort_chunks_by_idxs(rows, forward_.plan.chunks, empty_to_send(rows.shape(), rows.dtype()));
}

Tensor AllToAllTokenDispatcher::unsort(const Tensor& rows) const {
  if (is_sorted_on_arrival()) return rows;
  return sort_chunks_by_idxs(rows, forward_.plan.chunks.inverse(),
                             empty_to_bring_back(rows.shape(), rows.dtype()));
}

bool AllToAllTokenDispatcher::is_sorted_on_arrival() const {
  return config_.num_local_experts() == 1 || config_.num_ranks() == 1;
}

Tensor AllToAllTokenDispatcher::empty_to_send(const Shape& shape, DType dtype) const {
  return ranks().expert_parallel.empty(shape, dtype);
}

Tensor AllToAllTokenDispatcher::empty_to_bring_back(const Shape& shape, DType dtype) const {
  RankCollectives& groups = ranks();
  return (config_.expert_tensor_parallel_size > 1 ? groups.tensor_parallel : groups.expert_parallel)
      .empty(shape, dtype);
}

}  // namespace flexep::moe
