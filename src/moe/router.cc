// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/router.h"

#include "common/check.h"
#include "moe/floating.h"
#include "moe/gemm.h"
#include "moe/load_balancing.h"
#include "moe/router_probs.h"
#include "moe/topk.h"

namespace flexep::moe {
namespace {

void check_arguments(const MoeConfig& config, const Tensor& hidden, const Tensor& weight) {
  require_argument(hidden.num_dims() == 2 && hidden.size(1) == config.hidden_size, "hidden",
                   "hidden must be [num_tokens, hidden_size = {}], not {}", config.hidden_size,
                   hidden.shape().to_string());
  require_argument(weight.shape() == Shape{config.num_moe_experts, config.hidden_size}, "weight",
                   "the router's weight must be [num_moe_experts = {}, hidden_size = {}], not {}",
                   config.num_moe_experts, config.hidden_size, weight.shape().to_string());
}

template <typename T>
Tensor scale(const Tensor& tensor, double factor) {
  Tensor scaled = tensor.clone();
  for (T& value : scaled.values<T>()) value *= static_cast<T>(factor);
  return scaled;
}

std::vector<std::int64_t> count_tokens_per_expert(const Tensor& topk_idx, int num_experts) {
  std::vector<std::int64_t> counts(static_cast<std::size_t>(num_experts));
  for (const auto expert : topk_idx.values<std::int64_t>()) ++counts[static_cast<std::size_t>(expert)];
  return counts;
}

template <typename T>
RouterForward forward(const MoeConfig& config, Communicator& comm, const Tensor& hidden,
                      const Tensor& weight) {
  const int num_experts = config.num_moe_experts;
  const Tensor rows = cast(hidden.contiguous(), kDTypeOf<T>);
  const Tensor logits = Tensor::empty({rows.size(0), num_experts}, kDTypeOf<T>);
  multiply(rows, transposed(cast(weight.contiguous(), kDTypeOf<T>)), logits);

  const auto chosen = choose_experts<T>(config, logits);
  const auto counts = count_tokens_per_expert(chosen.topk_idx, num_experts);
  const auto balance =
      config.moe_aux_loss_coeff == 0 ? LoadBalancing{} : balance_load<T>(config, comm, chosen.scores, counts);
  return {.probs = scatter_columns(scale<T>(chosen.topk_probs, config.moe_router_topk_scaling_factor),
                                   chosen.topk_idx, num_experts),
          .routing_map = multihot(chosen.topk_idx, num_experts),
          .aux_loss = balance.loss,
          .tokens_per_expert = counts,
          .context = {.hidden = rows,
                      .scores = chosen.scores,
                      .topk_idx = chosen.topk_idx,
                      .topk_probs = chosen.topk_probs,
                      .load = balance.load,
                      .num_global_tokens = balance.num_global_tokens}};
}

template <typename T>
RouterGradients backward(const MoeConfig& config, const Tensor& weight, const RouterContext& context,
                         const RouterOutputGradients& grads) {
  const Tensor grad_topk_probs = scale<T>(gather_columns(grads.probs.value().contiguous(), context.topk_idx),
                                          config.moe_router_topk_scaling_factor);
  const Tensor grad_scores = context.load.empty()
                                 ? Tensor::zeros(context.scores.shape(), kDTypeOf<T>)
                                 : balance_load_backward<T>(config, context.scores, context.load,
                                                            context.num_global_tokens, grads.aux_loss);
  const Tensor grad_logits = choose_experts_backward<T>(
      config, {.scores = context.scores, .topk_idx = context.topk_idx, .topk_probs = context.topk_probs},
      grad_topk_probs, grad_scores);

  const Tensor grad_hidden = Tensor::empty(context.hidden.shape(), kDTypeOf<T>);
  const Tensor grad_weight = Tensor::empty(weight.shape(), kDTypeOf<T>);
  multiply(grad_logits, cast(weight.contiguous(), kDTypeOf<T>), grad_hidden);
  multiply(transposed(grad_logits), context.hidden, grad_weight);
  return {.hidden = grad_hidden, .weight = cast(grad_weight, weight.dtype())};
}

}  // namespace

RouterForward router_forward(const MoeConfig& config, Communicator& comm, const Tensor& hidden,
                             const Tensor& weight) {
  check_arguments(config, hidden, weight);
  return config.router_dtype() == DType::kFloat64 ? forward<double>(config, comm, hidden, weight)
                                                  : forward<float>(config, comm, hidden, weight);
}

RouterGradients router_backward(const MoeConfig& config, const Tensor& weight, const RouterContext& context,
                                const RouterOutputGradients& grads) {
  return config.router_dtype() == DType::kFloat64 ? backward<double>(config, weight, context, grads)
                                                  : backward<float>(config, weight, context, grads);
}

}  // namespace flexep::moe
