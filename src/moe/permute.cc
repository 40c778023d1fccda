// SPDX-License-Identifier: Apache-2.0
#include "flexep/moe/permute.h"

#include <algorithm>
#include <cstring>

#include "common/check.h"
#include "moe/floating.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

void check_permute(const Tokens& tokens, const Tensor& routing_map) {
  require_argument(tokens.hidden.num_dims() == 2, "hidden", "hidden must be [num_rows, H], not {}",
                   tokens.hidden.shape().to_string());
  require_argument(routing_map.num_dims() == 2 && routing_map.dtype() == DType::kInt32 &&
                       routing_map.size(0) == tokens.hidden.size(0),
                   "routing_map", "routing_map must be int32 [{}, experts], not {} {}", tokens.hidden.size(0),
                   name_of(routing_map.dtype()), routing_map.shape().to_string());
  require_argument(tokens.probs.shape() == routing_map.shape(), "probs",
                   "probs must have the routing map's shape {}, not {}", routing_map.shape().to_string(),
                   tokens.probs.shape().to_string());
}

Permutation make_permutation(const Tensor& routing_map) {
  const std::int64_t num_rows = routing_map.size(0), num_experts = routing_map.size(1);
  Permutation permutation{.num_rows = num_rows};
  std::vector<std::int32_t> sorted;
  for (std::int64_t expert = 0; expert < num_experts; ++expert) {
    const std::size_t begin = sorted.size();
    for (std::int64_t row = 0; row < num_rows; ++row) {
      if (row_of<std::int32_t>(routing_map, row)[static_cast<std::size_t>(expert)] != 0)
        sorted.push_back(static_cast<std::int32_t>(row));
    }
    permutation.tokens_per_expert.push_back(static_cast<std::int32_t>(sorted.size() - begin));
  }
  permutation.sorted_indices =
      Tensor::from_values<std::int32_t>(sorted, {static_cast<std::int64_t>(sorted.size())});
  return permutation;
}

// Calls visit(permuted row, source row, expert) in permuted order.
template <typename Visitor>
void for_each_pair(const Permutation& permutation, Visitor&& visit) {
  const auto sources = permutation.sorted_indices.values<std::int32_t>();
  std::size_t permuted = 0;
  for (std::size_t expert = 0; expert < permutation.tokens_per_expert.size(); ++expert) {
    for (std::int32_t i = 0; i < permutation.tokens_per_expert[expert]; ++i, ++permuted)
      visit(permuted, sources[permuted], expert);
  }
}

// The caller's memory, or our own.
Tensor memory_for(const Tensor& out, const Shape& shape, DType dtype) {
  if (!out) return Tensor::empty(shape, dtype);
  require_argument(out.shape() == shape && out.dtype() == dtype && out.is_contiguous(), "out",
                   "out must be contiguous {} {}, not {} {}", name_of(dtype), shape.to_string(),
                   name_of(out.dtype()), out.shape().to_string());
  return out;
}

// [M, W] -> [N, W], whatever the element type.
Tensor gather_rows(const Tensor& rows, const Permutation& permutation, const Tensor& out) {
  Tensor gathered = memory_for(out, {permutation.sorted_indices.size(0), rows.size(1)}, rows.dtype());
  const std::size_t row_bytes = static_cast<std::size_t>(rows.size(1)) * size_of(rows.dtype());
  const auto* from = static_cast<const std::byte*>(rows.data());
  auto* to = static_cast<std::byte*>(gathered.data());
  for_each_pair(permutation, [&](auto permuted, auto source, auto) {
    std::memcpy(to + permuted * row_bytes, from + static_cast<std::size_t>(source) * row_bytes, row_bytes);
  });
  return gathered;
}

template <typename T>
void add_rows(const Tensor& permuted, const Permutation& permutation, const Tensor& sums) {
  for_each_pair(permutation, [&](auto from, auto to, auto) {
    const auto row = row_of<T>(permuted, from);
    const auto sum = row_of<T>(sums, to);
    std::transform(sum.begin(), sum.end(), row.begin(), sum.begin(),
                   [](T a, T b) { return convert<T>(convert<Wide<T>>(a) + convert<Wide<T>>(b)); });
  });
}

}  // namespace

PermuteResult permute(const Tokens& tokens, const Tensor& routing_map) {
  check_permute(tokens, routing_map);
  auto permutation = make_permutation(routing_map.contiguous());
  const Tensor all_probs = tokens.probs.contiguous();
  Tensor probs = Tensor::empty(permutation.sorted_indices.shape(), tokens.probs.dtype());
  visit_floating(probs.dtype(), "probs", [&]<typename T>(T) {
    for_each_pair(permutation, [&](auto permuted, auto source, auto expert) {
      probs.data<T>()[permuted] = row_of<T>(all_probs, source)[expert];
    });
  });
  Tensor hidden = gather_rows(tokens.hidden.contiguous(), permutation, {});
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
  return {.hidden = unpermute(permuted.hidden, permutation, out), .probs = probs};
}

Tensor unpermute(const Tensor& permuted, const Permutation& permutation, const Tensor& out) {
  require_argument(permuted.num_dims() == 2 && permuted.size(0) == permutation.sorted_indices.size(0),
                   "permuted", "permuted must be [{}, H], not {}", permutation.sorted_indices.size(0),
                   permuted.shape().to_string());
  Tensor sums = memory_for(out, {permutation.num_rows, permuted.size(1)}, permuted.dtype());
  if (sums.num_bytes() > 0) std::memset(sums.data(), 0, sums.num_bytes());
  visit_floating(permuted.dtype(), "permuted",
                 [&]<typename T>(T) { add_rows<T>(permuted.contiguous(), permutation, sums); });
  return sums;
}

Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& grad, const Permutation& permutation,
                                    const Tensor& out) {
  return gather_rows(grad.value().contiguous(), permutation, out);
}

}  // namespace flexep::moe
