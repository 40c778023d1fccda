// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/cuda_router.h"

#include "flexep/cuda.h"
#include "moe/cuda/check.h"
#include "moe/cuda/router_kernels.h"
#include "moe/floating.h"

namespace flexep::moe::on_cuda {
namespace {

cudaStream_t stream() {
  return flexep::cuda::current_stream();
}

// [E] in the type of the logits, on the host; no tensor without a bias.
Tensor bias_of(std::span<const double> expert_bias, DType dtype) {
  if (expert_bias.empty()) return {};
  const Shape shape{static_cast<std::int64_t>(expert_bias.size())};
  return moe::cast(Tensor::from_values(expert_bias, shape), dtype);
}

}  // namespace

RoutingDecision CudaRouter::route(const RoutingRules& rules, const Tensor& logits,
                                  std::span<const double> expert_bias) const {
  const CurrentDevice here(device_.index);
  const Shape chosen{logits.size(0), rules.topk};
  const RoutingDecision routed{.scores = compute_.empty(logits.shape(), logits.dtype()),
                               .topk_idx = compute_.empty(chosen, DType::kInt64),
                               .topk_probs = compute_.empty(chosen, logits.dtype()),
                               .probs = compute_.empty(logits.shape(), logits.dtype()),
                               .routing_map = compute_.empty(logits.shape(), DType::kInt32)};
  on_cuda::route(rules, logits, compute_.from_host(bias_of(expert_bias, logits.dtype())), routed, stream());
  return routed;
}

LossTerms CudaRouter::loss_terms(const RoutingRules& rules, const Tensor& logits,
                                 const RoutingDecision& routed, std::int64_t num_sequences) const {
  const CurrentDevice here(device_.index);
  const Tensor shares = compute_.empty(logits.shape(), logits.dtype());
  const LossTerms terms{.by_sequence = compute_.empty({num_sequences, 2 * logits.size(1)}, DType::kFloat64),
                        .squared_log_sums = compute_.empty({logits.size(0)}, DType::kFloat64)};
  token_terms(rules, logits, routed.scores, shares, terms.squared_log_sums, stream());
  on_cuda::sum_by_sequence(shares, routed.routing_map, terms.by_sequence, stream());
  return terms;
}

Tensor CudaRouter::route_backward(const RoutingRules& rules, const RouterContext& context,
                                  const Tensor& grad_probs, double grad_loss) const {
  const CurrentDevice here(device_.index);
  const Tensor grad_logits = compute_.empty(context.scores.shape(), context.scores.dtype());
  on_cuda::route_backward(rules, context, compute_.from_host(context.share_slopes), grad_probs, grad_loss,
                          grad_logits, stream());
  return grad_logits;
}

TopColumns CudaRouter::topk(const Tensor& values, int k) const {
  const CurrentDevice here(device_.index);
  const TopColumns top{.idx = compute_.empty({values.size(0), k}, DType::kInt64),
                       .values = compute_.empty({values.size(0), k}, values.dtype())};
  on_cuda::topk(values, top, stream());
  return top;
}

Tensor CudaRouter::scatter_columns(const Tensor& values, const Tensor& idx, std::int64_t num_columns) const {
  const CurrentDevice here(device_.index);
  Tensor out = compute_.empty({idx.size(0), num_columns}, values.dtype());
  on_cuda::scatter_columns(values, idx, out, stream());
  return out;
}

}  // namespace flexep::moe::on_cuda
