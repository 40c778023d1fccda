// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/check.h"
#include "flexep/moe/router.h"
#include "moe/floating.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

void check_routing(const Tensor& probs, const Tensor& routing_map) {
  require_argument(probs.num_dims() == 2, "probs", "probs must be [T, E], not {}", probs.shape());
  require_argument(routing_map.shape() == probs.shape() && routing_map.dtype() == DType::kInt32,
                   "routing_map", "routing_map must be int32 {}, not {} {}", probs.shape(),
                   name_of(routing_map.dtype()), routing_map.shape());
}

// The tokens that one expert would take first: [T], those with the largest value, of equal ones the first.
template <typename Value>
std::vector<std::int64_t> rank_tokens(std::int64_t num_tokens, Value&& value_of) {
  std::vector<std::int64_t> order(static_cast<std::size_t>(num_tokens));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return value_of(a) > value_of(b); });
  return order;
}

// int32 [T, E]: 1 for the `capacity` tokens that each expert takes.
Tensor capacity_mask(const Tensor& probs, const Tensor& map, std::int64_t capacity, TokenDropPolicy policy) {
  Tensor mask = Tensor::zeros(map.shape(), DType::kInt32);
  const auto take = [&](std::size_t expert, const std::vector<std::int64_t>& order) {
    for (std::int64_t i = 0; i < capacity; ++i)
      row_of<std::int32_t>(mask, order[static_cast<std::size_t>(i)])[expert] = 1;
  };
  for (std::size_t e = 0; e < static_cast<std::size_t>(map.size(1)); ++e) {
    switch (policy) {
      case TokenDropPolicy::kProbs:
        visit_floating(probs.dtype(), "probs", [&]<typename T>(T) {
          take(e, rank_tokens(map.size(0), [&](auto t) { return convert<Wide<T>>(row_of<T>(probs, t)[e]); }));
        });
        break;
      case TokenDropPolicy::kPosition:
        take(e, rank_tokens(map.size(0), [&](auto t) { return row_of<std::int32_t>(map, t)[e] != 0; }));
        break;
    }
  }
  return mask;
}

// values where the map names the pair, else 0.
Tensor masked(const Tensor& values, const Tensor& map) {
  Tensor result = Tensor::zeros(values.shape(), values.dtype());
  visit_floating(values.dtype(), "probs", [&]<typename T>(T) {
    const auto from = values.values<T>(), to = result.values<T>();
    const auto is_named = map.values<std::int32_t>();
    for (std::size_t i = 0; i < from.size(); ++i)
      if (is_named[i] != 0) to[i] = from[i];
  });
  return result;
}

}  // namespace

std::int64_t expert_capacity(std::int64_t num_pairs, int num_experts, double capacity_factor,
                             std::int64_t min_capacity) {
  const double capacity = std::ceil(static_cast<double>(num_pairs) / num_experts * capacity_factor);
  return std::max(min_capacity, static_cast<std::int64_t>(capacity));
}

DroppedRouting apply_router_token_dropping(const Tensor& probs, const Tensor& routing_map,
                                           const TokenDroppingOptions& options) {
  check_routing(probs, routing_map);
  const std::int64_t num_tokens = probs.size(0);
  const std::int64_t capacity =
      expert_capacity(num_tokens * options.router_topk, static_cast<int>(probs.size(1)),
                      options.capacity_factor, options.min_capacity);
  if (capacity > num_tokens) return {.probs = probs, .routing_map = routing_map};
  const Tensor all_probs = probs.contiguous(), map = routing_map.contiguous();
  Tensor kept = capacity_mask(all_probs, map, capacity, options.drop_policy);
  if (!options.pad_to_capacity) {
    const auto routed = map.values<std::int32_t>();
    std::transform(routed.begin(), routed.end(), kept.values<std::int32_t>().begin(),
                   kept.values<std::int32_t>().begin(),
                   [](auto a, auto b) { return a != 0 && b != 0 ? 1 : 0; });
  }
  return {.probs = masked(all_probs, kept), .routing_map = kept};
}

Gradient<Tensor> apply_router_token_dropping_backward(const Gradient<Tensor>& probs,
                                                      const Tensor& routing_map) {
  check_routing(probs.value(), routing_map);
  return masked(probs.value().contiguous(), routing_map.contiguous());
}

}  // namespace flexep::moe
