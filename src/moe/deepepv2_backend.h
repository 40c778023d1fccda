// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "flexep/moe/moe_config.h"
#include "flexep/moe/permute.h"
#include "flexep/moe/token_dispatcher.h"
#include "moe/flex_backend.h"

namespace flexep::moe {

/// The `deepepv2` backend: tokens travel through an ElasticBuffer to the top tp * K of their probabilities. A
/// routing map plays no part: a token with fewer non-zero probabilities goes to zero ones too, lowest expert
/// first, where it weighs nothing.
///
/// Dispatch and combine are each other's transpose, so the backward of one is the other on the same handle.
class DeepEpV2Backend : public FlexBackend {
 public:
  Tensor setup_metadata(const Tensor& probs) override;
  Gradient<Tensor> setup_metadata_backward(const Gradient<Tensor>& token_probs) override;
  Tokens dispatch(const Tokens& tokens) override;
  TokenGradients dispatch_backward(const TokenGradients& received) override;
  Tensor combine(const Tensor& received) override;
  Gradient<Tensor> combine_backward(const Gradient<Tensor>& sums) override;

 protected:
  /// @param do_expand  whether rows arrive grouped by expert.
  DeepEpV2Backend(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group, bool do_expand)
      : config_(config), group_(std::move(group)), do_expand_(do_expand) {}

  int num_local_experts() const { return config_.num_local_experts(); }
  ElasticBuffer& buffer() const { return group_->buffer(); }
  /// What the last dispatch returned.
  const DispatchHandle& handle() const { return handle_; }
  const Tensor& recv_topk_idx() const { return recv_topk_idx_; }
  const Shape& recv_shape() const { return recv_shape_; }
  DType dtype() const { return dtype_; }

 private:
  int num_virtual_experts() const { return config_.num_moe_experts * config_.expert_tensor_parallel_size; }

  MoeConfig config_;
  std::shared_ptr<ExpertParallelGroup> group_;
  bool do_expand_;
  Tensor topk_idx_;  // int64 [T, tp * K]
  DType weight_dtype_ = DType::kFloat32;
  DispatchHandle handle_;
  Tensor recv_topk_idx_;
  Shape recv_shape_;
  DType dtype_ = DType::kFloat32;
};

/// Compact rows, one for each received token, and an explicit permute.
class DeepEpV2CompactBackend final : public DeepEpV2Backend {
 public:
  DeepEpV2CompactBackend(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group)
      : DeepEpV2Backend(config, std::move(group), /*do_expand=*/false) {}

  GroupedTokens permute(const Tokens& received) override;
  TokenGradients permute_backward(const TokenGradients& permuted) override;
  Tensor unpermute(const Tensor& permuted) override;
  Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& received) override;
  Tensor empty_expert_rows() override;

 private:
  Permutation permutation_;
};

/// moe_permute_fusion: expanded rows, one for each (token, local expert) pair, which arrive grouped by
/// expert.
class DeepEpV2ExpandedBackend final : public DeepEpV2Backend {
 public:
  DeepEpV2ExpandedBackend(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group)
      : DeepEpV2Backend(config, std::move(group), /*do_expand=*/true) {}

  GroupedTokens permute(const Tokens& received) override;
  TokenGradients permute_backward(const TokenGradients& permuted) override { return permuted; }
  Tensor unpermute(const Tensor& permuted) override { return permuted; }
  Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& received) override { return received; }
  Tensor empty_expert_rows() override;
};

}  // namespace flexep::moe
