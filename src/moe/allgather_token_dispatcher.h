// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "flexep/moe/permute.h"
#include "flexep/moe/token_dispatcher.h"

namespace flexep::moe {

/// Megatron's allgather dispatcher: every rank gets every token, and keeps what its experts want.
class AllGatherTokenDispatcher final : public TokenDispatcher {
 public:
  AllGatherTokenDispatcher(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group);

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

  Tensor empty_expert_rows() override;
  void reset_transient_forward_state() override { forward_ = {}; }

 private:
  struct Forward {
    Shape hidden_shape;
    DType probs_dtype = DType::kFloat32;
    Tensor routing_map;  // int32 [T, E], then of all ranks' tokens
    std::vector<std::int32_t> num_tokens_per_rank;
    Shape gathered_shape;           // of all ranks' rows
    DType dtype = DType::kFloat32;  // of the rows
    Permutation permutation;        // from all ranks' rows to this rank's experts'
  };

  RowCollectives& ranks() const { return group_->collectives(config_.expert_tensor_parallel_size).all; }
  // The columns of this rank's experts.
  Tensor local_columns(const Tensor& columns) const;

  MoeConfig config_;
  std::shared_ptr<ExpertParallelGroup> group_;
  Forward forward_;
};

}  // namespace flexep::moe
