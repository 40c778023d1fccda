// SPDX-License-Identifier: Apache-2.0
#include "moe/received_rows.h"

#include <algorithm>

#include "moe/topk.h"

namespace flexep::moe {
namespace {

class CompactRows final : public ReceivedRows {
 public:
  CompactRows(ElasticBuffer& buffer, int num_local_experts, int alignment)
      : buffer_(buffer), num_local_experts_(num_local_experts), alignment_(alignment) {}

  bool do_expand() const override { return false; }
  int expert_alignment() const override { return 1; }

  GroupedTokens permute(const Received& received, const Tokens& tokens) override {
    const Tensor routing_map = multihot(received.topk_idx, num_local_experts_);
    const Tensor probs = scatter_columns(tokens.probs, received.topk_idx, num_local_experts_);
    auto permuted = moe::permute(
        {.hidden = tokens.hidden, .probs = probs}, routing_map,
        {.align_size = alignment_,
         .memory = [this](const Shape& shape, DType dtype) { return buffer_.empty(shape, dtype); }});
    permutation_ = std::move(permuted.permutation);
    return {.tokens = permuted.tokens, .tokens_per_expert = permutation_.tokens_per_expert};
  }

  TokenGradients permute_backward(const Received& received, const TokenGradients& permuted) override {
    const auto grads = moe::permute_backward(permuted, permutation_, empty_rows(received));
    return {.hidden = grads.hidden, .probs = gather_columns(grads.probs, received.topk_idx)};
  }

  Tensor unpermute(const Received& received, const Tensor& permuted) override {
    return moe::unpermute(permuted, permutation_, empty_rows(received));
  }

  Gradient<Tensor> unpermute_backward(const Received& received, const Gradient<Tensor>& rows) override {
    return moe::unpermute_backward(rows, permutation_, empty_expert_rows(received));
  }

  Tensor empty_expert_rows(const Received& received) override {
    return buffer_.empty({permutation_.sorted_indices.size(0), received.shape[1]}, received.dtype);
  }

  void reset() override { permutation_ = {}; }

 private:
  // What combine reads in place.
  Tensor empty_rows(const Received& received) const { return buffer_.empty(received.shape, received.dtype); }

  ElasticBuffer& buffer_;
  int num_local_experts_;
  int alignment_;
  Permutation permutation_;
};

class ExpandedRows final : public ReceivedRows {
 public:
  ExpandedRows(ElasticBuffer& buffer, int alignment) : buffer_(buffer), alignment_(std::max(alignment, 1)) {}

  bool do_expand() const override { return true; }
  int expert_alignment() const override { return alignment_; }

  // Gap rows are rows of their expert: zeros, with probability zero, which no backward and no combine reads.
  GroupedTokens permute(const Received& received, const Tokens& tokens) override {
    const auto counts = received.handle.num_aligned_recv_tokens_per_expert();
    return {.tokens = tokens, .tokens_per_expert = {counts.begin(), counts.end()}};
  }
  TokenGradients permute_backward(const Received&, const TokenGradients& permuted) override {
    return permuted;
  }
  Tensor unpermute(const Received&, const Tensor& permuted) override { return permuted; }
  Gradient<Tensor> unpermute_backward(const Received&, const Gradient<Tensor>& rows) override { return rows; }
  Tensor empty_expert_rows(const Received& received) override {
    return buffer_.empty(received.shape, received.dtype);
  }
  void reset() override {}

 private:
  ElasticBuffer& buffer_;
  int alignment_;
};

}  // namespace

std::unique_ptr<ReceivedRows> make_compact_rows(ElasticBuffer& buffer, int num_local_experts, int alignment) {
  return std::make_unique<CompactRows>(buffer, num_local_experts, alignment);
}

std::unique_ptr<ReceivedRows> make_expanded_rows(ElasticBuffer& buffer, int alignment) {
  return std::make_unique<ExpandedRows>(buffer, alignment);
}

}  // namespace flexep::moe
