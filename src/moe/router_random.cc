// SPDX-License-Identifier: Apache-2.0
#include "moe/router_random.h"

#include <algorithm>
#include <cmath>

#include "moe/counter_random.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

enum class Stream : std::uint64_t { kJitter = 1, kLogits = 2, kBias = 3 };

std::uint64_t key_of(Stream stream, std::uint64_t key) {
  return mix(key ^ mix(static_cast<std::uint64_t>(stream)));
}

}  // namespace

std::int64_t first_random_token(const MoeConfig& config, Communicator& comm, std::int64_t num_tokens) {
  if (config.moe_input_jitter_eps.value_or(0) == 0 && !config.moe_router_force_load_balancing) return 0;
  const auto all = comm.all_gather(num_tokens);
  std::int64_t first = 0;
  for (int rank = 0; rank < comm.rank(); ++rank) first += all[static_cast<std::size_t>(rank)];
  return first;
}

template <typename T>
Tensor jitter_factors(const MoeConfig& config, std::uint64_t key, std::int64_t first_token,
                      std::int64_t num_tokens) {
  const double eps = config.moe_input_jitter_eps.value_or(0);
  if (eps == 0) return {};
  Tensor factors = Tensor::empty({num_tokens, config.hidden_size}, kDTypeOf<T>);
  auto position = static_cast<std::uint64_t>(first_token * config.hidden_size);
  for (T& factor : factors.values<T>())
    factor = static_cast<T>(1 + eps * (2 * unit_random(key_of(Stream::kJitter, key), position++) - 1));
  return factors;
}

template <typename T>
void force_logits(const MoeConfig& config, std::uint64_t key, std::int64_t first_token,
                  const Tensor& logits) {
  if (config.moe_router_force_load_balancing) {
    auto position = static_cast<std::uint64_t>(first_token * config.num_moe_experts);
    for (T& logit : logits.values<T>())
      logit = static_cast<T>(normal_random(key_of(Stream::kLogits, key), position++));
  }
  const double deviation = config.moe_router_force_biased.value_or(0);
  if (deviation == 0) return;
  // A negative deviation asks for biases that no forward changes: they must not depend on its key.
  const std::uint64_t bias_key = key_of(Stream::kBias, deviation < 0 ? 0 : key);
  for (std::int64_t t = 0; t < logits.size(0); ++t) {
    const auto row = row_of<T>(logits, t);
    for (std::size_t e = 0; e < row.size(); ++e)
      row[e] += static_cast<T>(std::abs(deviation) * normal_random(bias_key, e));
  }
}

template <typename T>
Tensor times(const Tensor& a, const Tensor& b) {
  Tensor product = Tensor::empty(a.shape(), kDTypeOf<T>);
  const auto left = a.values<T>();
  std::transform(left.begin(), left.end(), b.values<T>().begin(), product.values<T>().begin(),
                 std::multiplies<>());
  return product;
}

template Tensor jitter_factors<float>(const MoeConfig&, std::uint64_t, std::int64_t, std::int64_t);
template Tensor jitter_factors<double>(const MoeConfig&, std::uint64_t, std::int64_t, std::int64_t);
template void force_logits<float>(const MoeConfig&, std::uint64_t, std::int64_t, const Tensor&);
template void force_logits<double>(const MoeConfig&, std::uint64_t, std::int64_t, const Tensor&);
template Tensor times<float>(const Tensor&, const Tensor&);
template Tensor times<double>(const Tensor&, const Tensor&);

}  // namespace flexep::moe
