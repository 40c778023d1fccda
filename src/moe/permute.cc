// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/permute.h"

#include <cstring>

#include "common/check.h"
#include "moe/floating.h"
#include "moe/memory_for.h"
#include "moe/permutation.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

void check_permute(const Tokens& tokens, const Tensor& routing_map) {
  require_argument(tokens.hidden.num_dims() == 2, "hidden", "hidden must be [num_rows, H], not {}",
                   tokens.hidden.shape());
  require_argument(routing_map.num_dims() == 2 && routing_map.dtype() == DType::kInt32 &&
                       routing_map.size(0) == tokens.hidden.size(0),
                   "routing_map", "routing_map must be int32 [{}, experts], not {} {}", tokens.hidden.size(0),
                   name_of(routing_map.dtype()), routing_map.shape());
  require_argument(tokens.probs.shape() == routing_map.shape(), "probs",
                   "probs must have the routing map's shape {}, not {}", routing_map.shape(),
                   tokens.probs.shape());
}

// [M, W] -> [N, W], whatever the element type. Each source row is read once, for all of its copies.
Tensor gather_rows(const Tensor& rows, const Permutation& permutation, const Tensor& out) {
  Tensor gathered = memory_for(out, {permutation.sorted_indices.size(0), rows.size(1)}, rows.dtype());
  const std::size_t row_bytes = static_cast<std::size_t>(rows.size(1)) * size_of(rows.dtype());
  const CopiesOfRows copies(permutation);
  const auto* from = static_cast<const std::byte*>(rows.data());
  auto* to = static_cast<std::byte*>(gathered.data());
  for (std::int64_t row = 0; row < permutation.num_rows; ++row, from += row_bytes)
    for (const std::int32_t copy : copies.of(row))
      std::memcpy(to + static_cast<std::size_t>(copy) * row_bytes, from, row_bytes);

  const auto sources = permutation.sorted_indices.values<std::int32_t>();
  for (std::size_t i = 0; i < sources.size(); ++i)
    if (sources[i] < 0) std::memset(to + i * row_bytes, 0, row_bytes);
  return gathered;
}

void check_permuted(const Tensor& permuted, const Permutation& permutation) {
  require_argument(permuted.num_dims() == 2 && permuted.size(0) == permutation.sorted_indices.size(0),
                   "permuted", "permuted must be [{}, H], not {}", permutation.sorted_indices.size(0),
                   permuted.shape());
}

void check_grad(const Tensor& grad, const Permutation& permutation) {
  require_argument(grad.num_dims() == 2 && grad.size(0) == permutation.num_rows, "grad",
                   "the gradient must be [{}, H], not {}", permutation.num_rows, grad.shape());
}

template <typename T>
void sum_copies(const Tensor& permuted, const Permutation& permutation, const Tensor& sums) {
  const CopiesOfRows copies(permutation);
  for (std::int64_t row = 0; row < permutation.num_rows; ++row) {
    const auto sum = row_of<T>(sums, row);
    std::fill(sum.begin(), sum.end(), T{});
    for (const std::int32_t copy : copies.of(row)) {
      const auto addend = row_of<T>(permuted, copy);
      for (std::size_t h = 0; h < sum.size(); ++h)
        sum[h] = convert<T>(convert<Wide<T>>(sum[h]) + convert<Wide<T>>(addend[h]));
    }
  }
}

}  // namespace

PermuteResult permute(const Tokens& tokens, const Tensor& routing_map, const PermuteOptions& options) {
  check_permute(tokens, routing_map);
  auto permutation = make_permutation(routing_map.contiguous(), options);
  const Tensor all_probs = tokens.probs.contiguous();
  Tensor probs = Tensor::zeros(permutation.sorted_indices.shape(), tokens.probs.dtype());
  visit_floating(probs.dtype(), "probs", [&]<typename T>(T) {
    for_each_pair(permutation, [&](auto permuted, auto source, auto expert) {
      probs.data<T>()[permuted] = row_of<T>(all_probs, source)[expert];
    });
  });
  const Shape shape{permutation.sorted_indices.size(0), tokens.hidden.size(1)};
  const Tensor out = options.memory ? options.memory(shape, tokens.hidden.dtype()) : Tensor();
  Tensor hidden = gather_rows(tokens.hidden.contiguous(), permutation, out);
  return {.tokens = {.hidden = hidden, .probs = probs}, .permutation = std::move(permutation)};
}

TokenGradients permute_backward(const TokenGradients& permuted, const Permutation& permutation,
                                const Tensor& out) {
  const Tensor grad_pairs = permuted.probs.value().contiguous();
  const auto num_experts = static_cast<std::int64_t>(permutation.tokens_per_expert.size());
  Tensor probs = Tensor::zeros({permutation.num_rows, num_experts}, grad_pairs.dtype());
  visit_floating(probs.dtype(), "probs", [&]<typename T>(T) {
    for_each_pair(permutation, [&](auto from, auto to, auto expert) {
      row_of<T>(probs, to)[expert] = grad_pairs.data<T>()[from];
    });
  });
  return {.hidden = unpermute(permuted.hidden.value(), permutation, out), .probs = probs};
}

Tensor unpermute(const Tensor& permuted, const Permutation& permutation, const Tensor& out) {
  check_permuted(permuted, permutation);
  Tensor sums = memory_for(out, {permutation.num_rows, permuted.size(1)}, permuted.dtype());
  visit_floating(permuted.dtype(), "permuted",
                 [&]<typename T>(T) { sum_copies<T>(permuted.contiguous(), permutation, sums); });
  return sums;
}

Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& grad, const Permutation& permutation,
                                    const Tensor& out) {
  check_grad(grad, permutation);
  return gather_rows(grad.value().contiguous(), permutation, out);
}

}  // namespace flexep::moe
