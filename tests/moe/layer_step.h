// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "expert_groups.h"
#include "flexep/moe/moe_layer.h"

/// One forward and backward of a MoE layer over ranks, and what all of them together got.
namespace flexep::moe::testing {

inline constexpr double kGradAuxLoss = 0.7;

/// All ranks' tokens, in rank order.
struct LayerBatch {
  std::vector<std::int64_t> num_tokens;  ///< [ranks]
  Tensor hidden, grad_output;            ///< [T of all, H]

  Tensor share(const Tensor& all, int rank) const {
    const auto begin = std::accumulate(num_tokens.begin(), num_tokens.begin() + rank, std::int64_t{0});
    return all.rows(begin, begin + num_tokens[static_cast<std::size_t>(rank)]).clone();
  }
};

inline LayerBatch random_batch(const std::vector<std::int64_t>& num_tokens, std::int64_t hidden_size) {
  const auto total = std::accumulate(num_tokens.begin(), num_tokens.end(), std::int64_t{0});
  return {.num_tokens = num_tokens,
          .hidden = random_tensor(total, hidden_size, 1),
          .grad_output = random_tensor(total, hidden_size, 2)};
}

inline MoeParameters<Tensor> values_of(const MoeParameters<Gradient<Tensor>>& grads) {
  const auto& shared = grads.shared_expert;
  return {.router_weight = grads.router_weight,
          .experts = {.fc1 = grads.experts.fc1, .fc2 = grads.experts.fc2},
          .latent = {.down = grads.latent.down, .up = grads.latent.up},
          .shared_expert = {.fc1 = shared.fc1, .fc2 = shared.fc2, .gate = shared.gate}};
}

struct Step {
  std::vector<MoeParameters<Tensor>> parameters, grads;  ///< by rank
  Matrix output, grad_hidden;                            ///< all ranks' tokens
  double aux_loss = 0;

  explicit Step(int num_ranks)
      : parameters(static_cast<std::size_t>(num_ranks)), grads(static_cast<std::size_t>(num_ranks)) {}
};

/// Where a layer is, and what brings tensors of the host there and back.
struct Placement {
  Device device = Device::host();
  std::function<Tensor(const Tensor&)> to_layer = [](const Tensor& tensor) { return tensor; };
  std::function<Tensor(const Tensor&)> to_host = [](const Tensor& tensor) { return tensor; };

  MoeParameters<Tensor> all_to_host(const MoeParameters<Tensor>& parameters) const {
    const auto& [router_weight, experts, latent, shared] = parameters;
    return {.router_weight = to_host(router_weight),
            .experts = {.fc1 = to_host(experts.fc1), .fc2 = to_host(experts.fc2)},
            .latent = {.down = to_host(latent.down), .up = to_host(latent.up)},
            .shared_expert = {
                .fc1 = to_host(shared.fc1), .fc2 = to_host(shared.fc2), .gate = to_host(shared.gate)}};
  }
};

/// @param prepare  what to do to each rank's layer before.
inline Step run_step(const MoeConfig& config, const LayerBatch& batch,
                     const std::function<void(MoeLayer&)>& prepare = {}, const Placement& place = {}) {
  Step step(config.num_ranks());
  std::vector<Matrix> outputs(step.grads.size()), grad_hiddens(step.grads.size());
  in_process(config.num_ranks(), [&](Communicator& comm) {
    const auto rank = static_cast<std::size_t>(comm.rank());
    const auto group = std::make_shared<ExpertParallelGroup>(comm, place.device);
    MoeLayer layer(config, group, /*seed=*/3);
    if (prepare) prepare(layer);
    auto forward = layer.forward(place.to_layer(batch.share(batch.hidden, comm.rank())));
    const auto grads = layer.backward(
        std::move(forward.context),
        {.output = place.to_layer(batch.share(batch.grad_output, comm.rank())), .aux_loss = kGradAuxLoss});
    group->buffer().check();
    outputs[rank] = rows_of(place.to_host(forward.output));
    grad_hiddens[rank] = rows_of(place.to_host(grads.hidden));
    step.parameters[rank] = place.all_to_host(layer.parameters());
    step.grads[rank] = place.all_to_host(values_of(grads.parameters));
    if (rank == 0) step.aux_loss = forward.aux_loss;
  });
  for (std::size_t rank = 0; rank < outputs.size(); ++rank) {
    step.output.insert(step.output.end(), outputs[rank].begin(), outputs[rank].end());
    step.grad_hidden.insert(step.grad_hidden.end(), grad_hiddens[rank].begin(), grad_hiddens[rank].end());
  }
  return step;
}

inline Step run_step(const MoeConfig& config, const Tensor& hidden, const Tensor& grad_output) {
  LayerBatch batch{.num_tokens = {}, .hidden = hidden, .grad_output = grad_output};
  for (int rank = 0; rank < config.num_ranks(); ++rank) batch.num_tokens.push_back(num_tokens_of(rank));
  return run_step(config, batch);
}

/// The sum over ranks of the gradient of a parameter that all of them have.
template <typename Member>
Matrix sum_of_grads(const Step& step, Member&& member) {
  Matrix sum;
  for (const auto& grads : step.grads) {
    if (!member(grads)) return {};
    const Matrix other = rows_of(member(grads));
    if (sum.empty()) sum = Matrix(other.size(), Row(other.front().size()));
    for (std::size_t i = 0; i < sum.size(); ++i)
      for (std::size_t j = 0; j < sum[i].size(); ++j) sum[i][j] += other[i][j];
  }
  return sum;
}

inline Matrix sum_of_router_grads(const Step& step) {
  return sum_of_grads(step, [](const auto& grads) { return grads.router_weight; });
}

inline void expect_equal_replicated_grads(const Step& step, const reference::Parameters& expected,
                                          double tolerance) {
  const auto check = [&](const Matrix& matrix, auto member) {
    EXPECT_TRUE(near(matrix, sum_of_grads(step, member), tolerance));
  };
  check(expected.router_weight, [](const auto& grads) { return grads.router_weight; });
  check(expected.latent_down, [](const auto& grads) { return grads.latent.down; });
  check(expected.latent_up, [](const auto& grads) { return grads.latent.up; });
  check(expected.shared_expert.fc1, [](const auto& grads) { return grads.shared_expert.fc1; });
  check(expected.shared_expert.fc2, [](const auto& grads) { return grads.shared_expert.fc2; });
  check(expected.shared_gate, [](const auto& grads) { return grads.shared_expert.gate; });
}

/// Of every expert of the model.
inline void expect_equal_expert_grads(const MoeConfig& config, const Step& step,
                                      const reference::Parameters& expected, double tolerance) {
  const auto grads = reference::gather_parameters(config, step.grads);
  for (std::size_t e = 0; e < grads.experts.size(); ++e) {
    EXPECT_TRUE(near(expected.experts[e].fc1, grads.experts[e].fc1, tolerance)) << "expert " << e;
    EXPECT_TRUE(near(expected.experts[e].fc2, grads.experts[e].fc2, tolerance)) << "expert " << e;
  }
}

}  // namespace flexep::moe::testing
