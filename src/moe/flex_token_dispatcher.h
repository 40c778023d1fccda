// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "flexep/moe/token_dispatcher.h"
#include "moe/flex_backend.h"

namespace flexep::moe {

/// Megatron's flex dispatcher: expert and tensor parallel ranks are one flat group, in which a backend moves
/// the tokens.
class FlexTokenDispatcher final : public TokenDispatcher {
 public:
  FlexTokenDispatcher(const MoeConfig& config, std::unique_ptr<FlexBackend> backend)
      : config_(config), backend_(std::move(backend)) {}

  Tokens dispatch_preprocess(const Tokens& tokens, const Tensor& routing_map) override;
  Tokens token_dispatch(const Tokens& tokens, const AsyncOptions& options) override;
  GroupedTokens dispatch_postprocess(const Tokens& tokens) override;
  Tensor combine_preprocess(const Tensor& hidden) override;
  Tensor token_combine(const Tensor& hidden, const AsyncOptions& options) override;
  Tensor combine_postprocess(const Tensor& hidden) override;

  Gradient<Tensor> combine_postprocess_backward(const Gradient<Tensor>& grad) override;
  Gradient<Tensor> token_combine_backward(const Gradient<Tensor>& grad) override;
  Gradient<Tensor> combine_preprocess_backward(const Gradient<Tensor>& grad) override;
  TokenGradients dispatch_postprocess_backward(const TokenGradients& grads) override;
  TokenGradients token_dispatch_backward(const TokenGradients& grads) override;
  TokenGradients dispatch_preprocess_backward(const TokenGradients& grads) override;

  Tensor empty_expert_rows() override { return backend_->empty_expert_rows(); }
  std::optional<bool> check_over_budget() const override { return backend_->check_over_budget(); }
  void reset_transient_forward_state() override;

 protected:
  Tensor* find_cudagraph_attr(std::string_view path) override;

 private:
  MoeConfig config_;
  std::unique_ptr<FlexBackend> backend_;
  Shape hidden_shape_;
};

}  // namespace flexep::moe
