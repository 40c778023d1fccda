// SPDX-License-Identifier: Apache-2.0
#include "moe/initial_parameters.h"

#include <cmath>

#include "moe/floating.h"

namespace flexep::moe {
namespace {

enum class Parameter : std::uint64_t { kRouter = 1, kFc1 = 2, kFc2 = 3 };

// The finaliser of splitmix64: every input bit reaches every output bit.
std::uint64_t mix(std::uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// Uniform, with mean 0 and standard deviation 1: fp64 arithmetic without a library function, so equal
// everywhere.
double random_value(std::uint64_t seed, Parameter parameter, std::int64_t position) {
  const std::uint64_t bits =
      mix(mix(seed ^ mix(static_cast<std::uint64_t>(parameter))) + static_cast<std::uint64_t>(position));
  const double in_unit_interval = static_cast<double>(bits >> 11) * 0x1.0p-53;
  return (2 * in_unit_interval - 1) * 1.7320508075688772;  // sqrt(3)
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

}  // namespace

MoeParameters<Tensor> initial_parameters(const MoeConfig& config, int rank, std::uint64_t seed) {
  const std::int64_t hidden = config.hidden_size, ffn = config.moe_ffn_hidden_size;
  const std::int64_t num_local_experts = config.num_local_experts(),
                     local_ffn = config.local_ffn_hidden_size();
  const std::int64_t first_expert = rank / config.expert_tensor_parallel_size * num_local_experts;
  const std::int64_t first_column = rank % config.expert_tensor_parallel_size * local_ffn;

  const Tensor router = make_parameter(config, seed, Parameter::kRouter, {1, config.num_moe_experts, hidden},
                                       [&](auto, auto e, auto h) { return e * hidden + h; });
  // A tensor rank holds the same slice of the gate and of the up projection.
  const auto fc1_row = [&](std::int64_t r) {
    return r < local_ffn ? first_column + r : ffn + first_column + r - local_ffn;
  };
  return {.router_weight = router.reshape({config.num_moe_experts, hidden}),
          .experts = {
              .fc1 = make_parameter(config, seed, Parameter::kFc1, {num_local_experts, 2 * local_ffn, hidden},
                                    [&](auto e, auto r, auto h) {
                                      return ((first_expert + e) * 2 * ffn + fc1_row(r)) * hidden + h;
                                    }),
              .fc2 = make_parameter(config, seed, Parameter::kFc2, {num_local_experts, hidden, local_ffn},
                                    [&](auto e, auto h, auto f) {
                                      return ((first_expert + e) * hidden + h) * ffn + first_column + f;
                                    })}};
}

}  // namespace flexep::moe
