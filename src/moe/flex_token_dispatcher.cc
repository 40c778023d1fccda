// SPDX-License-Identifier: Apache-2.0
#include "moe/flex_token_dispatcher.h"

#include "common/check.h"
#include "moe/flatten.h"
#include "moe/virtual_experts.h"

namespace flexep::moe {
namespace {

void check_probs(const MoeConfig& config, std::int64_t num_tokens, const Tensor& probs,
                 const Tensor& routing_map) {
  const Shape expected{num_tokens, config.num_moe_experts};
  require_argument(
      probs.shape() == expected && (probs.dtype() == DType::kFloat32 || probs.dtype() == DType::kFloat64),
      "probs", "probs must be fp32 or fp64 {}, not {} {}", expected.to_string(), name_of(probs.dtype()),
      probs.shape().to_string());
  require_argument(routing_map.shape() == expected && routing_map.dtype() == DType::kInt32, "routing_map",
                   "routing_map must be int32 {}, not {} {}", expected.to_string(),
                   name_of(routing_map.dtype()), routing_map.shape().to_string());
}

}  // namespace

Tokens FlexTokenDispatcher::dispatch_preprocess(const Tokens& tokens, const Tensor& routing_map) {
  const Tensor hidden = flatten_tokens(tokens.hidden, config_.hidden_size);
  check_probs(config_, hidden.size(0), tokens.probs, routing_map);
  hidden_shape_ = tokens.hidden.shape();
  return {.hidden = hidden,
          .probs = backend_->setup_metadata(to_virtual_experts(config_, tokens.probs.contiguous()))};
}

Tokens FlexTokenDispatcher::token_dispatch(const Tokens& tokens) {
  return backend_->dispatch(tokens);
}

GroupedTokens FlexTokenDispatcher::dispatch_postprocess(const Tokens& tokens) {
  return backend_->permute(tokens);
}

Tensor FlexTokenDispatcher::combine_preprocess(const Tensor& hidden) {
  return backend_->unpermute(hidden);
}

Tensor FlexTokenDispatcher::token_combine(const Tensor& hidden) {
  return backend_->combine(hidden);
}

Tensor FlexTokenDispatcher::combine_postprocess(const Tensor& hidden) {
  return hidden.reshape(hidden_shape_);
}

Gradient<Tensor> FlexTokenDispatcher::combine_postprocess_backward(const Gradient<Tensor>& grad) {
  return flatten_tokens(grad, config_.hidden_size);
}

Gradient<Tensor> FlexTokenDispatcher::token_combine_backward(const Gradient<Tensor>& grad) {
  return backend_->combine_backward(grad);
}

Gradient<Tensor> FlexTokenDispatcher::combine_preprocess_backward(const Gradient<Tensor>& grad) {
  return backend_->unpermute_backward(grad);
}

TokenGradients FlexTokenDispatcher::dispatch_postprocess_backward(const TokenGradients& grads) {
  return backend_->permute_backward(grads);
}

TokenGradients FlexTokenDispatcher::token_dispatch_backward(const TokenGradients& grads) {
  return backend_->dispatch_backward(grads);
}

TokenGradients FlexTokenDispatcher::dispatch_preprocess_backward(const TokenGradients& grads) {
  return {.hidden = grads.hidden.value().reshape(hidden_shape_),
          .probs = to_virtual_experts_backward(config_, backend_->setup_metadata_backward(grads.probs))};
}

}  // namespace flexep::moe
