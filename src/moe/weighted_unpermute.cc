// SPDX-License-Identifier: Apache-2.0
#include "common/check.h"
#include "flexep/moe/permute.h"
#include "moe/floating.h"
#include "moe/memory_for.h"
#include "moe/permutation.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

void check_weighted(const Tokens& permuted, const Permutation& permutation) {
  const Shape shape{permutation.num_rows, static_cast<std::int64_t>(permutation.tokens_per_expert.size())};
  require_argument(
      permuted.hidden.num_dims() == 2 && permuted.hidden.size(0) == permutation.sorted_indices.size(0),
      "permuted", "permuted must be [{}, H], not {}", permutation.sorted_indices.size(0),
      permuted.hidden.shape());
  require_argument(permuted.probs.shape() == shape && (permuted.probs.dtype() == DType::kFloat32 ||
                                                       permuted.probs.dtype() == DType::kFloat64),
                   "probs", "probs must be fp32 or fp64 {}, not {} {}", shape,
                   name_of(permuted.probs.dtype()), permuted.probs.shape());
}

// Calls visitor(T{}, P{}, S{}) for the types of rows, probs and sums.
template <typename Visitor>
void visit_types(const Tokens& tokens, Visitor&& visitor) {
  visit_floating(tokens.hidden.dtype(), "permuted", [&]<typename T>(T row) {
    if (tokens.probs.dtype() == DType::kFloat64)
      visitor(row, double{}, double{});
    else
      visitor(row, float{}, Wide<T>{});
  });
}

}  // namespace

Tensor unpermute(const Tokens& permuted, const Permutation& permutation, const Tensor& out) {
  check_weighted(permuted, permutation);
  const Tensor rows = permuted.hidden.contiguous(), probs = permuted.probs.contiguous();
  const Tensor result = memory_for(out, {permutation.num_rows, rows.size(1)}, rows.dtype());
  const CopiesOfRows copies(permutation);
  const auto experts = permutation.sorted_experts.values<std::int32_t>();
  visit_types(permuted, [&]<typename T, typename P, typename S>(T, P, S) {
    std::vector<S> sum(static_cast<std::size_t>(rows.size(1)));
    for (std::int64_t row = 0; row < permutation.num_rows; ++row) {
      std::fill(sum.begin(), sum.end(), S{0});
      for (const std::int32_t copy : copies.of(row)) {
        const auto expert = static_cast<std::size_t>(experts[static_cast<std::size_t>(copy)]);
        const S prob = static_cast<S>(row_of<P>(probs, row)[expert]);
        const auto addend = row_of<T>(rows, copy);
        for (std::size_t h = 0; h < sum.size(); ++h) sum[h] += prob * convert<S>(addend[h]);
      }
      const auto to = row_of<T>(result, row);
      for (std::size_t h = 0; h < sum.size(); ++h) to[h] = convert<T>(sum[h]);
    }
  });
  return result;
}

TokenGradients unpermute_backward(const Gradient<Tensor>& grad, const Tokens& permuted,
                                  const Permutation& permutation) {
  check_weighted(permuted, permutation);
  const Tensor rows = permuted.hidden.contiguous(), probs = permuted.probs.contiguous();
  const Tensor grad_sums = grad.value().contiguous();
  const Shape grad_shape{permutation.num_rows, rows.size(1)};
  require_argument(grad_sums.shape() == grad_shape && grad_sums.dtype() == rows.dtype(), "grad",
                   "the gradient must be {} {}, not {} {}", name_of(rows.dtype()), grad_shape,
                   name_of(grad_sums.dtype()), grad_sums.shape());
  const Tensor grad_rows = Tensor::zeros(rows.shape(), rows.dtype());
  const Tensor grad_probs = Tensor::zeros(probs.shape(), probs.dtype());
  visit_types(permuted, [&]<typename T, typename P, typename S>(T, P, S) {
    for_each_pair(permutation, [&](auto copy, auto source, auto expert) {
      const S prob = static_cast<S>(row_of<P>(probs, source)[expert]);
      const auto row = row_of<T>(rows, copy), grad_sum = row_of<T>(grad_sums, source);
      const auto grad_row = row_of<T>(grad_rows, copy);
      S grad_prob = 0;
      for (std::size_t h = 0; h < row.size(); ++h) {
        grad_row[h] = convert<T>(prob * convert<S>(grad_sum[h]));
        grad_prob += convert<S>(row[h]) * convert<S>(grad_sum[h]);
      }
      row_of<P>(grad_probs, source)[expert] = static_cast<P>(grad_prob);
    });
  });
  return {.hidden = grad_rows, .probs = grad_probs};
}

}  // namespace flexep::moe
