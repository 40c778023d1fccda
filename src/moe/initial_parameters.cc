// SPDX-License-Identifier: Apache-2.0
#include "moe/initial_parameters.h"

#include "moe/counter_random.h"
#include "moe/floating.h"

namespace flexep::moe {
namespace {

enum class Parameter : std::uint64_t {
  kRouter = 1,
  kFc1 = 2,
  kFc2 = 3,
  kLatentDown = 4,
  kLatentUp = 5,
  kSharedFc1 = 6,
  kSharedFc2 = 7,
  kSharedGate = 8
};

// Uniform, with mean 0 and standard deviation 1.
double random_value(std::uint64_t seed, Parameter parameter, std::int64_t position) {
  const std::uint64_t key = mix(seed ^ mix(static_cast<std::uint64_t>(parameter)));
  return (2 * unit_random(key, static_cast<std::uint64_t>(position)) - 1) * 1.7320508075688772;  // sqrt(3)
}

// position_of(i, j, k) is the place of element [i, j, k] in the whole model's parameter.
template <typename PositionOf>
Tensor make_parameter(const MoeConfig& config, std::uint64_t seed, Parameter parameter, const Shape& shape,
                      PositionOf&& position_of) {
  Tensor values = Tensor::empty(shape, DType::kFloat64);
  double* value = values.data<double>();
  for (std::int64_t i = 0; i < shape[0]; ++i)
    for (std::int64_t j = 0; j < shape[1]; ++j)
      for (std::int64_t k = 0; k < shape[2]; ++k)
        *value++ = config.init_method_std * random_value(seed, parameter, position_of(i, j, k));
  return cast(values, config.params_dtype);
}

// A parameter of which every rank has the whole.
Tensor make_replicated(const MoeConfig& config, std::uint64_t seed, Parameter parameter, std::int64_t rows,
                       std::int64_t columns) {
  return make_parameter(config, seed, parameter, {1, rows, columns},
                        [&](auto, auto i, auto j) { return i * columns + j; })
      .reshape({rows, columns});
}

LatentProjections<Tensor> initial_latent(const MoeConfig& config, std::uint64_t seed) {
  if (!config.moe_latent_size) return {};
  const std::int64_t latent = *config.moe_latent_size, hidden = config.hidden_size;
  return {.down = make_replicated(config, seed, Parameter::kLatentDown, latent, hidden),
          .up = make_replicated(config, seed, Parameter::kLatentUp, hidden, latent)};
}

SharedExpertWeights<Tensor> initial_shared_expert(const MoeConfig& config, std::uint64_t seed) {
  if (!config.moe_shared_expert_intermediate_size) return {};
  const std::int64_t width = *config.moe_shared_expert_intermediate_size, hidden = config.hidden_size;
  return {.fc1 = make_replicated(config, seed, Parameter::kSharedFc1, 2 * width, hidden),
          .fc2 = make_replicated(config, seed, Parameter::kSharedFc2, hidden, width),
          .gate = config.moe_shared_expert_gate
                      ? make_replicated(config, seed, Parameter::kSharedGate, 1, hidden)
                      : Tensor()};
}

}  // namespace

MoeParameters<Tensor> initial_parameters(const MoeConfig& config, int rank, std::uint64_t seed) {
  const std::int64_t hidden = config.dispatched_hidden_size(), ffn = config.moe_ffn_hidden_size;
  const std::int64_t num_local_experts = config.num_local_experts(),
                     local_ffn = config.local_ffn_hidden_size();
  const std::int64_t first_expert = rank / config.expert_tensor_parallel_size * num_local_experts;
  const std::int64_t first_column = rank % config.expert_tensor_parallel_size * local_ffn;

  // A tensor rank holds the same slice of the gate and of the up projection.
  const auto fc1_row = [&](std::int64_t r) {
    return r < local_ffn ? first_column + r : ffn + first_column + r - local_ffn;
  };
  return {
      .router_weight =
          make_replicated(config, seed, Parameter::kRouter, config.num_moe_experts, config.hidden_size),
      .experts = {.fc1 = make_parameter(config, seed, Parameter::kFc1,
                                        {num_local_experts, 2 * local_ffn, hidden},
                                        [&](auto e, auto r, auto h) {
                                          return ((first_expert + e) * 2 * ffn + fc1_row(r)) * hidden + h;
                                        }),
                  .fc2 = make_parameter(config, seed, Parameter::kFc2, {num_local_experts, hidden, local_ffn},
                                        [&](auto e, auto h, auto f) {
                                          return ((first_expert + e) * hidden + h) * ffn + first_column + f;
                                        })},
      .latent = initial_latent(config, seed),
      .shared_expert = initial_shared_expert(config, seed)};
}

}  // namespace flexep::moe
