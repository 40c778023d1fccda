// SPDX-License-Identifier: Apache-2.0
#include "moe/expert_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "moe/rows.h"

namespace flexep::moe {
namespace {

template <typename T>
T sum_of_largest(std::span<const T> values, std::size_t count) {
  std::vector<T> sorted(values.begin(), values.end());
  std::partial_sort(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(count), sorted.end(),
                    std::greater<>());
  return std::accumulate(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(count), T{0});
}

// Groups, the best first, of equal ones the lower first.
template <typename T>
std::vector<std::size_t> rank_groups(const MoeConfig& config, std::span<const T> row) {
  const auto num_groups = static_cast<std::size_t>(*config.moe_router_num_groups);
  const auto per_group = static_cast<std::size_t>(config.moe_router_topk / *config.moe_router_group_topk);
  const std::size_t group_size = row.size() / num_groups;
  std::vector<T> worth;
  for (std::size_t g = 0; g < num_groups; ++g)
    worth.push_back(
        sum_of_largest<T>(row.subspan(g * group_size, group_size), std::min(per_group, group_size)));
  std::vector<std::size_t> order(num_groups);
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return worth[a] > worth[b]; });
  return order;
}

// factors[i] = 1 / (n * sum over the other index).
double scale_to(std::span<double> factors, std::span<const double> sums) {
  constexpr double kEpsilon = 1e-8;
  double change = 0;
  for (std::size_t i = 0; i < factors.size(); ++i) {
    const double before = factors[i];
    factors[i] = 1 / (static_cast<double>(factors.size()) * (sums[i] + kEpsilon));
    change += std::abs(factors[i] - before);
  }
  return change / static_cast<double>(factors.size());
}

}  // namespace

template <typename T>
void keep_best_groups(const MoeConfig& config, const Tensor& values) {
  if (!config.moe_router_num_groups) return;
  const auto group_topk = static_cast<std::ptrdiff_t>(*config.moe_router_group_topk);
  const auto group_size = static_cast<std::size_t>(config.num_moe_experts / *config.moe_router_num_groups);
  for (std::int64_t t = 0; t < values.size(0); ++t) {
    const auto row = row_of<T>(values, t);
    const auto groups = rank_groups<T>(config, row);
    std::for_each(groups.begin() + group_topk, groups.end(), [&](std::size_t group) {
      const auto rejected = row.subspan(group * group_size, group_size);
      std::fill(rejected.begin(), rejected.end(), -std::numeric_limits<T>::infinity());
    });
  }
}

template <typename T>
Tensor sinkhorn(const Tensor& logits) {
  constexpr double kTolerance = 1e-4;
  constexpr int kMaxIterations = 1000;
  const auto num_tokens = static_cast<std::size_t>(logits.size(0));
  const auto num_experts = static_cast<std::size_t>(logits.size(1));
  Tensor cost = Tensor::empty(logits.shape(), DType::kFloat64);
  for (std::size_t t = 0; t < num_tokens; ++t) {
    const auto from = row_of<T>(logits, t);
    const T largest = *std::max_element(from.begin(), from.end());  // a row's factor makes up for it
    std::transform(from.begin(), from.end(), row_of<double>(cost, t).begin(),
                   [largest](T logit) { return std::exp(static_cast<double>(logit - largest)); });
  }
  std::vector<double> rows(num_tokens, 1), columns(num_experts, 1), row_sums(num_tokens);
  double change = num_tokens == 0 ? 0 : 1;
  for (int i = 0; i < kMaxIterations && change > kTolerance; ++i) {
    std::vector<double> column_sums(num_experts);
    for (std::size_t t = 0; t < num_tokens; ++t) {
      const auto row = row_of<double>(cost, t);
      row_sums[t] = std::inner_product(row.begin(), row.end(), columns.begin(), 0.0);
    }
    scale_to(rows, row_sums);
    for (std::size_t t = 0; t < num_tokens; ++t)
      for (std::size_t e = 0; e < num_experts; ++e) column_sums[e] += rows[t] * row_of<double>(cost, t)[e];
    change = scale_to(columns, column_sums);
  }
  for (std::size_t t = 0; t < num_tokens; ++t)
    for (std::size_t e = 0; e < num_experts; ++e) row_of<double>(cost, t)[e] *= rows[t] * columns[e];
  return cost;
}

template void keep_best_groups<float>(const MoeConfig&, const Tensor&);
template void keep_best_groups<double>(const MoeConfig&, const Tensor&);
template Tensor sinkhorn<float>(const Tensor&);
template Tensor sinkhorn<double>(const Tensor&);

}  // namespace flexep::moe
