// SPDX-License-Identifier: Apache-2.0
#include "moe/flex_token_dispatcher.h"

#include "moe/device_router.h"
#include "moe/dispatch_arguments.h"
#include "moe/flatten.h"

namespace flexep::moe {

Tokens FlexTokenDispatcher::dispatch_preprocess(const Tokens& tokens, const Tensor& routing_map) {
  const Tensor hidden = flatten_tokens(tokens.hidden, config_.dispatched_hidden_size());
  check_routing(config_, hidden.size(0), tokens.probs, routing_map);
  require_argument(tokens.probs.device().is_host() || routes_on_device(config_), "probs",
                   "with this configuration probs and routing_map must be in the host's memory");
  hidden_shape_ = tokens.hidden.shape();
  return {.hidden = hidden,
          .probs = backend_->setup_metadata(tokens.probs.contiguous(), routing_map.contiguous())};
}

Tokens FlexTokenDispatcher::token_dispatch(const Tokens& tokens, const AsyncOptions& options) {
  return backend_->dispatch(tokens, options);
}

GroupedTokens FlexTokenDispatcher::dispatch_postprocess(const Tokens& tokens) {
  backend_->wait();
  return backend_->permute(tokens);
}

Tensor FlexTokenDispatcher::combine_preprocess(const Tensor& hidden) {
  return backend_->unpermute(hidden);
}

Tensor FlexTokenDispatcher::token_combine(const Tensor& hidden, const AsyncOptions& options) {
  return backend_->combine(hidden, options);
}

Tensor FlexTokenDispatcher::combine_postprocess(const Tensor& hidden) {
  backend_->wait();
  return hidden.reshape(hidden_shape_);
}

Gradient<Tensor> FlexTokenDispatcher::combine_postprocess_backward(const Gradient<Tensor>& grad) {
  return flatten_tokens(grad, config_.dispatched_hidden_size());
}

Gradient<Tensor> FlexTokenDispatcher::token_combine_backward(const Gradient<Tensor>& grad) {
  return backend_->combine_backward(grad);
}

Gradient<Tensor> FlexTokenDispatcher::combine_preprocess_backward(const Gradient<Tensor>& grad) {
  backend_->wait();
  return backend_->unpermute_backward(grad);
}

TokenGradients FlexTokenDispatcher::dispatch_postprocess_backward(const TokenGradients& grads) {
  return backend_->permute_backward(grads);
}

TokenGradients FlexTokenDispatcher::token_dispatch_backward(const TokenGradients& grads) {
  return backend_->dispatch_backward(grads);
}

TokenGradients FlexTokenDispatcher::dispatch_preprocess_backward(const TokenGradients& grads) {
  backend_->wait();
  return {.hidden = grads.hidden.value().reshape(hidden_shape_),
          .probs = backend_->setup_metadata_backward(grads.probs)};
}

void FlexTokenDispatcher::reset_transient_forward_state() {
  backend_->reset();
  hidden_shape_ = {};
}

Tensor* FlexTokenDispatcher::find_cudagraph_attr(std::string_view path) {
  constexpr std::string_view kBackend = "_comm_manager.";
  if (!path.starts_with(kBackend)) return nullptr;
  return backend_->find_cudagraph_attr(path.substr(kBackend.size()));
}

}  // namespace flexep::moe
