// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "flexep/moe/token_dispatcher.h"
#include "moe/flex_backend.h"

namespace flexep::moe {

/// Megatron's flex dispatcher: makes one flat group of experts out of expert and tensor parallelism, and
/// leaves the rest to a backend.
class FlexTokenDispatcher final : public TokenDispatcher {
 public:
  FlexTokenDispatcher(const MoeConfig& config, std::unique_ptr<FlexBackend> backend)
      : config_(config), backend_(std::move(backend)) {}

  Tokens dispatch_preprocess(const Tokens& tokens, const Tensor& routing_map) override;
  Tokens token_dispatch(const Tokens& tokens) override;
  GroupedTokens dispatch_postprocess(const Tokens& tokens) override;
  Tensor combine_preprocess(const Tensor& hidden) override;
  Tensor token_combine(const Tensor& hidden) override;
  Tensor combine_postprocess(const Tensor& hidden) override;

  Gradient<Tensor> combine_postprocess_backward(const Gradient<Tensor>& grad) override;
  Gradient<Tensor> token_combine_backward(const Gradient<Tensor>& grad) override;
  Gradient<Tensor> combine_preprocess_backward(const Gradient<Tensor>& grad) override;
  TokenGradients dispatch_postprocess_backward(const TokenGradients& grads) override;
  TokenGradients token_dispatch_backward(const TokenGradients& grads) override;
  TokenGradients dispatch_preprocess_backward(const TokenGradients& grads) override;

  Tensor empty_expert_rows() override { return backend_->empty_expert_rows(); }

 private:
  MoeConfig config_;
  std::unique_ptr<FlexBackend> backend_;
  Shape hidden_shape_;
};

}  // namespace flexep::moe
