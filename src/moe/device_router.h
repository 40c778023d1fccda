// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "flexep/moe/moe_config.h"
#include "flexep/moe/router.h"
#include "moe/router_probs.h"

namespace flexep::moe {

/// How a router decides, as its kernels take it.
struct RoutingRules {
  ScoreRule score;
  int topk = 1;
  double scaling_factor = 1;
  int num_groups = 1;  ///< 1 = there are none
  int group_topk = 1;
};
RoutingRules routing_rules(const MoeConfig& config);

/// What is decided about tokens; T = float or double, the type of the logits.
struct RoutingDecision {
  Tensor scores;       ///< [T, E]
  Tensor topk_idx;     ///< int64 [T, K], in descending order of what chose
  Tensor topk_probs;   ///< [T, K], before the scaling factor
  Tensor probs;        ///< [T, E], scaled, 0 where not routed
  Tensor routing_map;  ///< int32 [T, E]
};

/// What auxiliary losses are made of.
struct LossTerms {
  Tensor by_sequence;       ///< as sum_by_sequence
  Tensor squared_log_sums;  ///< fp64 [T], each token's logsumexp(logits)^2
};

/// Columns of rows, with their values.
struct TopColumns {
  Tensor idx;     ///< int64 [T, k]
  Tensor values;  ///< [T, k]
};

/// The decisions of a router where the logits are, for configurations of which routes_on_device() is true:
/// what router_probs.h, balancing_loss.h, z_loss.h and topk.h do on the host, by the same rules (of equal
/// values the lower column comes first). Sums and exponentials may differ by their last bits.
///
/// Tensors are contiguous and in this device's memory; everything is in the order of the current stream.
class DeviceRouter {
 public:
  virtual ~DeviceRouter() = default;

  /// @param expert_bias  [E] or empty; of the host.
  virtual RoutingDecision route(const RoutingRules& rules, const Tensor& logits,
                                std::span<const double> expert_bias) const = 0;
  virtual LossTerms loss_terms(const RoutingRules& rules, const Tensor& logits, const RoutingDecision& routed,
                               std::int64_t num_sequences) const = 0;
  /// The gradient of the logits. @param grad_probs  [T, E], of RoutingDecision::probs.
  virtual Tensor route_backward(const RoutingRules& rules, const RouterContext& context,
                                const Tensor& grad_probs, double grad_loss) const = 0;

  virtual TopColumns topk(const Tensor& values, int k) const = 0;
  /// [T, num_columns] in the type of values. Every idx names a column.
  virtual Tensor scatter_columns(const Tensor& values, const Tensor& idx, std::int64_t num_columns) const = 0;
};

/// Whether tokens of this configuration are routed on a device that has a router: else probabilities and
/// routing map are the host's.
bool routes_on_device(const MoeConfig& config);

}  // namespace flexep::moe
