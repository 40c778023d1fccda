// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "flexep/moe/permute.h"
#include "flexep/moe/token_dispatcher.h"
#include "moe/alltoall_plan.h"

namespace flexep::moe {

/// Megatron's alltoall dispatcher: a row for each (token, expert) pair crosses to the expert's rank with the
/// sender's tp_idx, and the tensor-parallel ranks there share what they got.
class AllToAllTokenDispatcher final : public TokenDispatcher {
 public:
  AllToAllTokenDispatcher(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group);

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
    Permutation permutation;  // from tokens to rows by expert
    AllToAllPlan plan;
    Shape expert_shape;  // of the rows that experts get
    DType dtype = DType::kFloat32;
  };

  RankCollectives& ranks() const { return group_->collectives(config_.expert_tensor_parallel_size); }
  std::vector<std::vector<std::int32_t>> gather_counts() const;
  /// Rows by expert to the experts' ranks, and back: each other's transpose.
  Tensor send(const Tensor& rows) const;
  Tensor bring_back(const Tensor& rows) const;
  /// Rows as they arrive to rows by local expert, and back.
  Tensor sort_by_expert(const Tensor& rows) const;
  Tensor unsort(const Tensor& rows) const;
  bool is_sorted_on_arrival() const;
  /// Memory that send and bring_back read in place.
  Tensor empty_to_send(const Shape& shape, DType dtype) const;
  Tensor empty_to_bring_back(const Shape& shape, DType dtype) const;

  MoeConfig config_;
  std::shared_ptr<ExpertParallelGroup> group_;
  Forward forward_;
};

}  // namespace flexep::moe
