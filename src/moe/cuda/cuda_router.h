// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "moe/compute_device.h"
#include "moe/device_router.h"

namespace flexep::moe::on_cuda {

/// DeviceRouter by the kernels of router_kernels.h.
class CudaRouter final : public DeviceRouter {
 public:
  /// @param compute  the same GPU; outlives this.
  CudaRouter(const ComputeDevice& compute, Device device) : compute_(compute), device_(device) {}

  RoutingDecision route(const RoutingRules& rules, const Tensor& logits,
                        std::span<const double> expert_bias) const override;
  LossTerms loss_terms(const RoutingRules& rules, const Tensor& logits, const RoutingDecision& routed,
                       std::int64_t num_sequences) const override;
  Tensor route_backward(const RoutingRules& rules, const RouterContext& context, const Tensor& grad_probs,
                        double grad_loss) const override;
  TopColumns topk(const Tensor& values, int k) const override;
  Tensor scatter_columns(const Tensor& values, const Tensor& idx, std::int64_t num_columns) const override;

 private:
  const ComputeDevice& compute_;
  Device device_;
};

}  // namespace flexep::moe::on_cuda
