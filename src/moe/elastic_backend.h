// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "flexep/moe/moe_config.h"
#include "moe/flex_backend.h"
#include "moe/received_rows.h"

namespace flexep::moe {

/// The engine under every backend: rows travel through the group's ElasticBuffer. Dispatch and combine are
/// each other's transpose, so the backward of one is the other on the same handle, at the width (num_sms)
/// that the forward resolved. A backend derived from it says which pairs are sent, and in which layout they
/// come.
///
/// On a GPU rows, and probabilities between a dispatch and its backward, are in its memory. What is sent is
/// decided, and gradients of probabilities go back to, where the probabilities came from: there, too
/// (routes_on_device), or on the host.
class ElasticBackend : public FlexBackend {
 public:
  TokenGradients dispatch_backward(const TokenGradients& received) override;
  Tensor combine(const Tensor& received, const AsyncOptions& options) override;
  Gradient<Tensor> combine_backward(const Gradient<Tensor>& sums) override;

  GroupedTokens permute(const Tokens& received) override;
  TokenGradients permute_backward(const TokenGradients& permuted) override;
  Tensor unpermute(const Tensor& permuted) override;
  Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& received) override;

  void wait() override;
  Tensor empty_expert_rows() override;
  std::optional<bool> check_over_budget() const override { return std::nullopt; }
  void reset() override;

 protected:
  ElasticBackend(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group,
                 std::unique_ptr<ReceivedRows> rows)
      : config_(config), group_(std::move(group)), rows_(std::move(rows)) {}

  const MoeConfig& config() const { return config_; }
  ExpertParallelGroup& group() const { return *group_; }
  int num_virtual_experts() const { return config_.num_moe_experts * config_.expert_tensor_parallel_size; }
  /// Of the probabilities that were sent last, as the router gave them.
  DType probs_dtype() const { return sent_.probs_dtype; }

  /// Sends the pairs that topk_idx names, in at most max_recv_tokens rows for this rank (0 = as many as
  /// come).
  Tokens send(const Tokens& tokens, const Tensor& topk_idx, int max_recv_tokens, const AsyncOptions& options);
  /// Pairs of the last dispatch that did not fit this rank.
  std::int64_t num_dropped_pairs() const;

 private:
  /// What backwards need of their forwards.
  struct Sent {
    bool probs_are_hosts = true;           ///< where the router decided
    DType probs_dtype = DType::kFloat32;   ///< as the router gave them
    DType weight_dtype = DType::kFloat32;  ///< as they travel
    AsyncOptions dispatch;
    AsyncOptions combine;
  };

  Event start_of(const AsyncOptions& options) const;

  MoeConfig config_;
  std::shared_ptr<ExpertParallelGroup> group_;
  std::unique_ptr<ReceivedRows> rows_;
  Sent sent_;
  Received received_;
  Event in_flight_;
};

}  // namespace flexep::moe
