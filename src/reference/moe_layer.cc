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

// What the experts see of a token, and what their sum becomes.
Row to_experts(const Parameters& parameters, const Row& token) {
  return parameters.latent_down.empty() ? token : times(parameters.latent_down, token);
}
Row from_experts(const Parameters& parameters, const Row& sum) {
  return parameters.latent_up.empty() ? sum : times(parameters.latent_up, sum);
}

Row scaled(const Row& row, double factor) {
  Row result = row;
  for (double& value : result) value *= factor;
  return result;
}

// One of a token's experts: the probability scales what the expert takes, or what its fc2 takes.
Row routed_output(const MoeConfig& config, const Expert& expert, const Row& token, double prob) {
  if (config.moe_apply_probs_on_input) return expert_output(expert, scaled(token, prob), 1);
  return expert_output(expert, token, prob);
}

double routed_backward(const MoeConfig& config, const Expert& expert, const Row& token, double prob,
                       const Row& grad_output, Expert& grad_expert, Row& grad_token) {
  if (!config.moe_apply_probs_on_input)
    return expert_backward(expert, token, prob, grad_output, grad_expert, grad_token);
  Row grad_scaled(token.size());
  expert_backward(expert, scaled(token, prob), 1, grad_output, grad_expert, grad_scaled);
  add_scaled(grad_token, prob, grad_scaled);
  return dot(grad_scaled, token);
}

double shared_gate(const Parameters& parameters, const Row& token) {
  return parameters.shared_gate.empty() ? 1 : logistic(dot(parameters.shared_gate.front(), token));
}

void shared_backward(const Parameters& parameters, const Row& token, const Row& grad_output,
                     Parameters& grads, Row& grad_token) {
  const double gate = shared_gate(parameters, token);
  const double grad_gate =
      expert_backward(parameters.shared_expert, token, gate, grad_output, grads.shared_expert, grad_token);
  if (parameters.shared_gate.empty()) return;
  const double grad_logit = grad_gate * gate * (1 - gate);
  add_scaled(grads.shared_gate.front(), grad_logit, token);
  add_scaled(grad_token, grad_logit, parameters.shared_gate.front());
}

Matrix zeros_like(const Matrix& matrix) {
  return matrix.empty() ? Matrix() : zeros(matrix.size(), matrix.front().size());
}
Expert zeros_like(const Expert& expert) {
  return {.fc1 = zeros_like(expert.fc1), .fc2 = zeros_like(expert.fc2)};
}
Parameters zeros_like(const Parameters& parameters) {
  Parameters result{.router_weight = zeros_like(parameters.router_weight),
                    .experts = {},
                    .latent_down = zeros_like(parameters.latent_down),
                    .latent_up = zeros_like(parameters.latent_up),
                    .shared_expert = zeros_like(parameters.shared_expert),
                    .shared_gate = zeros_like(parameters.shared_gate)};
  for (const Expert& expert : parameters.experts) result.experts.push_back(zeros_like(expert));
  return result;
}

}  // namespace

LayerOutput moe_layer(const MoeConfig& config, const Parameters& parameters, const Matrix& hidden,
                      const RouteInput& input) {
  const Routing routing = route(config, hidden, parameters.router_weight, input);
  LayerOutput result{.output = {}, .aux_loss = routing.aux_loss};
  for (std::size_t t = 0; t < hidden.size(); ++t) {
    const Row token = to_experts(parameters, hidden[t]);
    Row sum(token.size());
    for (std::size_t e = 0; e < routing.map[t].size(); ++e)
      if (routing.map[t][e] != 0)
        add_scaled(sum, 1.0, routed_output(config, parameters.experts[e], token, routing.probs[t][e]));
    result.output.push_back(from_experts(parameters, sum));
    if (!parameters.shared_expert.fc1.empty())
      add_scaled(result.output[t], 1.0,
                 expert_output(parameters.shared_expert, hidden[t], shared_gate(parameters, hidden[t])));
  }
  return result;
}

LayerGradients moe_layer_backward(const MoeConfig& config, const Parameters& parameters, const Matrix& hidden,
                                  const Matrix& grad_output, double grad_aux_loss, const RouteInput& input) {
  const auto width = static_cast<std::size_t>(config.hidden_size);
  const Routing routing = route(config, hidden, parameters.router_weight, input);
  LayerGradients grads{.hidden = zeros(hidden.size(), width),
                       .probs = zeros(hidden.size(), static_cast<std::size_t>(config.num_moe_experts)),
                       .parameters = zeros_like(parameters)};
  for (std::size_t t = 0; t < hidden.size(); ++t) {
    const Row token = to_experts(parameters, hidden[t]);
    Row sum(token.size()), grad_sum(token.size()), grad_token(token.size());
    for (std::size_t e = 0; e < routing.map[t].size(); ++e)
      if (routing.map[t][e] != 0)
        add_scaled(sum, 1.0, routed_output(config, parameters.experts[e], token, routing.probs[t][e]));
    if (parameters.latent_up.empty())
      grad_sum = grad_output[t];
    else
      times_backward(parameters.latent_up, sum, grad_output[t], grads.parameters.latent_up, grad_sum);
    for (std::size_t e = 0; e < routing.map[t].size(); ++e)
      if (routing.map[t][e] != 0)
        grads.probs[t][e] = routed_backward(config, parameters.experts[e], token, routing.probs[t][e],
                                            grad_sum, grads.parameters.experts[e], grad_token);
    if (parameters.latent_down.empty())
      add_scaled(grads.hidden[t], 1.0, grad_token);
    else
      times_backward(parameters.latent_down, hidden[t], grad_token, grads.parameters.latent_down,
                     grads.hidden[t]);
    if (!parameters.shared_expert.fc1.empty())
      shared_backward(parameters, hidden[t], grad_output[t], grads.parameters, grads.hidden[t]);
  }
  const auto router =
      route_backward(config, hidden, parameters.router_weight, grads.probs, grad_aux_loss, input);
  grads.parameters.router_weight = router.router_weight;
  for (std::size_t t = 0; t < hidden.size(); ++t) add_scaled(grads.hidden[t], 1.0, router.hidden[t]);
  return grads;
}

}  // namespace flexep::moe::reference
