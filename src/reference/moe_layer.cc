// SPDX-License-Identifier: Apache-2.0
#include <cmath>

#include "reference/moe_matrix.h"

namespace flexep::moe::reference {
namespace {

// silu(z) = z * s(z), and its derivative.
double logistic(double z) {
  return 1 / (1 + std::exp(-z));
}
double silu(double z) {
  return z * logistic(z);
}
double silu_slope(double z) {
  return logistic(z) * (1 + z * (1 - logistic(z)));
}

// [F], what the down projection reads, before the probability.
Row activate(const Row& gate_up) {
  const std::size_t ffn = gate_up.size() / 2;
  Row activated;
  for (std::size_t f = 0; f < ffn; ++f) activated.push_back(silu(gate_up[f]) * gate_up[ffn + f]);
  return activated;
}

Row activate_backward(const Row& gate_up, const Row& grad) {
  const std::size_t ffn = grad.size();
  Row grad_gate_up(gate_up.size());
  for (std::size_t f = 0; f < ffn; ++f) {
    grad_gate_up[f] = grad[f] * gate_up[ffn + f] * silu_slope(gate_up[f]);
    grad_gate_up[ffn + f] = grad[f] * silu(gate_up[f]);
  }
  return grad_gate_up;
}

// What one expert makes of one token, scaled by the probability.
Row expert_output(const Expert& expert, const Row& token, double prob) {
  Row activated = activate(times(expert.fc1, token));
  for (double& value : activated) value *= prob;
  return times(expert.fc2, activated);
}

// Adds to the gradients of the expert and the token; returns that of the probability.
double expert_backward(const Expert& expert, const Row& token, double prob, const Row& grad_output,
                       Expert& grad_expert, Row& grad_token) {
  const Row gate_up = times(expert.fc1, token), activated = activate(gate_up);
  Row scaled = activated, grad_scaled(activated.size());
  for (double& value : scaled) value *= prob;
  times_backward(expert.fc2, scaled, grad_output, grad_expert.fc2, grad_scaled);
  Row grad_activated = grad_scaled;
  for (double& value : grad_activated) value *= prob;
  times_backward(expert.fc1, token, activate_backward(gate_up, grad_activated), grad_expert.fc1, grad_token);
  return dot(grad_scaled, activated);
}

}  // namespace

LayerOutput moe_layer(const MoeConfig& config, const Parameters& parameters, const Matrix& hidden) {
  const Routing routing = route(config, hidden, parameters.router_weight);
  LayerOutput result{.output = zeros(hidden.size(), static_cast<std::size_t>(config.hidden_size)),
                     .aux_loss = routing.aux_loss};
  for (std::size_t t = 0; t < hidden.size(); ++t) {
    for (const int chosen : routing.chosen[t]) {
      const auto e = static_cast<std::size_t>(chosen);
      add_scaled(result.output[t], 1.0, expert_output(parameters.experts[e], hidden[t], routing.probs[t][e]));
    }
  }
  return result;
}

LayerGradients moe_layer_backward(const MoeConfig& config, const Parameters& parameters, const Matrix& hidden,
                                  const Matrix& grad_output, double grad_aux_loss) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const auto ffn = static_cast<std::size_t>(config.moe_ffn_hidden_size);
  const auto num_experts = static_cast<std::size_t>(config.num_moe_experts);
  const Routing routing = route(config, hidden, parameters.router_weight);
  LayerGradients grads{
      .hidden = zeros(hidden.size(), width),
      .probs = zeros(hidden.size(), num_experts),
      .parameters = {.experts = std::vector<Expert>(
                         num_experts, {.fc1 = zeros(2 * ffn, width), .fc2 = zeros(width, ffn)})}};
  for (std::size_t t = 0; t < hidden.size(); ++t) {
    for (const int chosen : routing.chosen[t]) {
      const auto e = static_cast<std::size_t>(chosen);
      grads.probs[t][e] = expert_backward(parameters.experts[e], hidden[t], routing.probs[t][e],
                                          grad_output[t], grads.parameters.experts[e], grads.hidden[t]);
    }
  }
  const auto router = route_backward(config, hidden, parameters.router_weight, grads.probs, grad_aux_loss);
  grads.parameters.router_weight = router.router_weight;
  for (std::size_t t = 0; t < hidden.size(); ++t) add_scaled(grads.hidden[t], 1.0, router.hidden[t]);
  return grads;
}

}  // namespace flexep::moe::reference
