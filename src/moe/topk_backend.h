// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "moe/elastic_backend.h"

namespace flexep::moe {

/// How a backend that goes by probabilities chooses the pairs of a token.
struct TopkRules {
  /// Whether a pair of probability 0 is not sent; else a token with fewer others sends it, where it weighs
  /// nothing.
  bool skips_zero_probs = false;
  /// Columns by expert instead of by probability, best first. Combine sums ranks in the order of their last
  /// column: so in rank order.
  bool is_by_expert = false;
};

/// A backend that sends each token to the top tp * K of its probabilities. The routing map plays no part, as
/// in Megatron, unless moe_respect_routing_map says that pairs which it excludes are not sent.
class TopkBackend : public ElasticBackend {
 public:
  Tensor setup_metadata(const Tensor& probs, const Tensor& routing_map) override;
  Gradient<Tensor> setup_metadata_backward(const Gradient<Tensor>& token_probs) override;
  Tokens dispatch(const Tokens& tokens, const AsyncOptions& options) override;
  Tensor* find_cudagraph_attr(std::string_view name) override;
  void reset() override;

 protected:
  TopkBackend(const MoeConfig& config, std::shared_ptr<ExpertParallelGroup> group,
              std::unique_ptr<ReceivedRows> rows, const TopkRules& rules)
      : ElasticBackend(config, std::move(group), std::move(rows)), rules_(rules) {}

  /// What setup_metadata chose.
  const Tensor& token_indices() const { return token_indices_; }
  /// The tokens with their chosen probabilities, which a caller that restored them as an attribute leaves
  /// out.
  Tokens with_probs(const Tokens& tokens) const {
    return {.hidden = tokens.hidden, .probs = tokens.probs ? tokens.probs : token_probs_};
  }

 private:
  TopkRules rules_;
  Tensor token_indices_;  // int64 [T, tp * K], -1 = not sent
  Tensor token_probs_;    // [T, tp * K]
};

}  // namespace flexep::moe
