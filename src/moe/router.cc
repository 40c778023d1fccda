// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/router.h"

#include <numeric>

#include "common/check.h"
#include "moe/auxiliary_loss.h"
#include "moe/balancing_loss.h"
#include "moe/device_router.h"
#include "moe/floating.h"
#include "moe/router_on_device.h"
#include "moe/router_probs.h"
#include "moe/router_random.h"
#include "moe/routing_replay.h"
#include "moe/topk.h"
#include "moe/z_loss.h"

namespace flexep::moe {
namespace {

void check_arguments(const MoeConfig& config, const Tensor& hidden, const Tensor& weight,
                     const RouterInput& input) {
  require_argument(hidden.num_dims() == 2 && hidden.size(1) == config.hidden_size, "hidden",
                   "hidden must be [num_tokens, hidden_size = {}], not {}", config.hidden_size,
                   hidden.shape());
  require_argument(weight.shape() == Shape{config.num_moe_experts, config.hidden_size}, "weight",
                   "the router's weight must be [num_moe_experts = {}, hidden_size = {}], not {}",
                   config.num_moe_experts, config.hidden_size, weight.shape());
  const auto require_experts = [&](const char* name, const std::vector<double>& values) {
    require_argument(values.empty() || values.size() == static_cast<std::size_t>(config.num_moe_experts),
                     name, "{} must have num_moe_experts = {} values, not {}", name, config.num_moe_experts,
                     values.size());
  };
  require_experts("expert_bias", input.expert_bias);
  require_experts("past_tokens_per_expert", input.past_tokens_per_expert);
  require_argument(input.num_sequences >= 1 && hidden.size(0) % input.num_sequences == 0, "num_sequences",
                   "num_sequences must divide the number of tokens {}, not be {}", hidden.size(0),
                   input.num_sequences);
  check_replay(config, hidden.size(0), input.replay_topk_idx);
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

DroppedRouting drop_tokens(const MoeConfig& config, const DroppedRouting& routing) {
  const auto factor = config.expert_capacity_factor();
  if (!factor) return routing;
  return apply_router_token_dropping(routing.probs, routing.routing_map,
                                     {.router_topk = config.moe_router_topk,
                                      .capacity_factor = *factor,
                                      .drop_policy = config.moe_token_drop_policy,
                                      .pad_to_capacity = config.moe_pad_expert_input_to_capacity});
}

// What is decided about tokens once their logits are known.
struct Decisions {
  RoutingDecision routed;  // probs and routing map as capacity leaves them
  Tensor kept;             // as RouterContext's
  AuxiliaryLoss losses;
};

template <typename T>
AuxiliaryLoss losses_of(const MoeConfig& config, Communicator& comm, const Tensor& logits,
                        const ChosenExperts& chosen, const RouterInput& input) {
  if (!has_loss(config)) return {};
  const LossSums sums{.num_tokens = logits.size(0),
                      .by_sequence = sum_by_sequence<T>(config, chosen, num_loss_sequences(config, input)),
                      .squared_log_sums = sum_of_squared_log_sums<T>(logits)};
  return auxiliary_loss(config, comm, sums, input);
}

template <typename T>
Decisions decide(const MoeConfig& config, Communicator& comm, const Tensor& logits,
                 const RouterInput& input) {
  const auto chosen = choose_experts<T>(
      config, logits, {.expert_bias = input.expert_bias, .replay_topk_idx = input.replay_topk_idx});
  const int num_experts = config.num_moe_experts;
  const auto routing = drop_tokens(
      config, {.probs = scatter_columns(scale<T>(chosen.topk_probs, config.moe_router_topk_scaling_factor),
                                        chosen.topk_idx, num_experts),
               .routing_map = multihot(chosen.topk_idx, num_experts)});
  return {.routed = {.scores = chosen.scores,
                     .topk_idx = chosen.topk_idx,
                     .topk_probs = chosen.topk_probs,
                     .probs = routing.probs,
                     .routing_map = routing.routing_map},
          .kept = config.expert_capacity_factor() ? routing.routing_map : Tensor(),
          .losses = losses_of<T>(config, comm, logits, chosen, input)};
}

// A choice that is given is the host's.
bool decides_on_device(const ComputeDevice& device, const MoeConfig& config, const RouterInput& input) {
  return device.router() != nullptr && routes_on_device(config) && !input.replay_topk_idx;
}

Decisions decide_on_device(const ComputeDevice& device, const MoeConfig& config, Communicator& comm,
                           const Tensor& logits, const RouterInput& input) {
  const RoutingRules rules = routing_rules(config);
  const RoutingDecision routed = device.router()->route(rules, logits, input.expert_bias);
  if (!has_loss(config)) return {.routed = routed, .kept = Tensor(), .losses = {}};
  const LossTerms terms =
      device.router()->loss_terms(rules, logits, routed, num_loss_sequences(config, input));
  const Tensor squares = device.to_host(terms.squared_log_sums);
  const auto values = squares.values<double>();
  const LossSums sums{.num_tokens = logits.size(0),
                      .by_sequence = device.to_host(terms.by_sequence),
                      .squared_log_sums = std::accumulate(values.begin(), values.end(), 0.0)};
  return {.routed = routed, .kept = Tensor(), .losses = auxiliary_loss(config, comm, sums, input)};
}

template <typename T>
RouterForward forward(const ComputeDevice& device, const MoeConfig& config, Communicator& comm,
                      const Tensor& hidden, const Tensor& weight, const RouterInput& input) {
  const std::int64_t num_tokens = hidden.size(0);
  const std::int64_t first_token = first_random_token(config, comm, num_tokens);
  const Tensor factors = jitter_factors<T>(config, input.random_key, first_token, num_tokens);
  const Tensor dense = device.cast(hidden.contiguous(), kDTypeOf<T>),
               rows = factors ? times<T>(dense, factors) : dense;
  const Tensor product = device.empty({num_tokens, config.num_moe_experts}, kDTypeOf<T>);
  device.multiply(rows, transposed(device.cast(weight.contiguous(), kDTypeOf<T>)), product);
  const bool stays = decides_on_device(device, config, input);
  const Tensor logits = stays ? product : device.to_host(product);
  force_logits<T>(config, input.random_key, first_token, logits);

  auto [routed, kept, losses] =
      stays ? decide_on_device(device, config, comm, logits, input) : decide<T>(config, comm, logits, input);
  const Tensor topk_idx = device.to_host(routed.topk_idx);
  return {.probs = routed.probs,
          .routing_map = routed.routing_map,
          .topk_idx = topk_idx,
          .aux_loss = losses.load_balancing + losses.z,
          .load_balancing_loss = losses.load_balancing,
          .z_loss = losses.z,
          .tokens_per_expert = count_tokens_per_expert(topk_idx, config.num_moe_experts),
          .global_tokens_per_expert = std::move(losses.global_tokens_per_expert),
          .context = {.hidden = rows,
                      .scores = routed.scores,
                      .topk_idx = routed.topk_idx,
                      .topk_probs = routed.topk_probs,
                      .kept = kept,
                      .share_slopes = losses.share_slopes,
                      .logits = losses.z_slope != 0 ? logits : Tensor(),
                      .z_slope = losses.z_slope,
                      .input_factors = factors}};
}

// The gradient of the logits.
template <typename T>
Tensor decide_backward(const MoeConfig& config, const RouterContext& context,
                       const RouterOutputGradients& grads) {
  const Tensor all_grads = grads.probs.value().contiguous();
  const Tensor grad_probs =
      context.kept ? apply_router_token_dropping_backward(all_grads, context.kept).value() : all_grads;
  const Tensor grad_topk_probs =
      scale<T>(gather_columns(grad_probs, context.topk_idx), config.moe_router_topk_scaling_factor);
  const Tensor grad_logits = choose_experts_backward<T>(
      config, {.scores = context.scores, .topk_idx = context.topk_idx, .topk_probs = context.topk_probs},
      grad_topk_probs, load_balancing_backward<T>(config, context, grads.aux_loss));
  z_loss_backward<T>(context, grads.aux_loss, grad_logits);
  return grad_logits;
}

Tensor decide_backward_on_device(const ComputeDevice& device, const MoeConfig& config,
                                 const RouterContext& context, const RouterOutputGradients& grads) {
  return device.router()->route_backward(routing_rules(config), context,
                                         device.from_host(grads.probs.value().contiguous()), grads.aux_loss);
}

template <typename T>
RouterGradients backward(const ComputeDevice& device, const MoeConfig& config, const Tensor& weight,
                         const RouterContext& context, const RouterOutputGradients& grads) {
  const Tensor grad_product = context.scores.device().is_host()
                                  ? device.from_host(decide_backward<T>(config, context, grads))
                                  : decide_backward_on_device(device, config, context, grads);
  const Tensor grad_rows = device.empty(context.hidden.shape(), kDTypeOf<T>);
  const Tensor grad_weight = device.empty(weight.shape(), kDTypeOf<T>);
  device.multiply(grad_product, device.cast(weight.contiguous(), kDTypeOf<T>), grad_rows);
  device.multiply(transposed(grad_product), context.hidden, grad_weight);
  return {.hidden = context.input_factors ? times<T>(grad_rows, context.input_factors) : grad_rows,
          .weight = device.cast(grad_weight, weight.dtype())};
}

}  // namespace

RouterForward router_forward(const ComputeDevice& device, const MoeConfig& config, Communicator& comm,
                             const Tensor& hidden, const Tensor& weight, const RouterInput& input) {
  check_arguments(config, hidden, weight, input);
  return config.router_dtype() == DType::kFloat64
             ? forward<double>(device, config, comm, hidden, weight, input)
             : forward<float>(device, config, comm, hidden, weight, input);
}

RouterGradients router_backward(const ComputeDevice& device, const MoeConfig& config, const Tensor& weight,
                                const RouterContext& context, const RouterOutputGradients& grads) {
  return config.router_dtype() == DType::kFloat64 ? backward<double>(device, config, weight, context, grads)
                                                  : backward<float>(device, config, weight, context, grads);
}

RouterForward router_forward(const MoeConfig& config, Communicator& comm, const Tensor& hidden,
                             const Tensor& weight, const RouterInput& input) {
  return router_forward(cpu_device(), config, comm, hidden, weight, input);
}

RouterGradients router_backward(const MoeConfig& config, const Tensor& weight, const RouterContext& context,
                                const RouterOutputGradients& grads) {
  return router_backward(cpu_device(), config, weight, context, grads);
}

}  // namespace flexep::moe
