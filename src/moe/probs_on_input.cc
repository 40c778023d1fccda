// SPDX-License-Identifier: Apache-2.0
#include "moe/probs_on_input.h"

#include <algorithm>

#include "moe/floating.h"
#include "moe/rows.h"

namespace flexep::moe {
namespace {

// Calls visitor(T{}, P{}) for the types of rows and probs.
template <typename Visitor>
void visit_types(const Tokens& tokens, Visitor&& visitor) {
  visit_floating(tokens.hidden.dtype(), "hidden", [&]<typename T>(T row) {
    if (tokens.probs.dtype() == DType::kFloat64)
      visitor(row, double{});
    else
      visitor(row, float{});
  });
}

}  // namespace

GroupedTokens apply_probs(const GroupedTokens& input) {
  const auto& [hidden, probs] = input.tokens;
  const Tensor weighted = Tensor::empty(hidden.shape(), hidden.dtype());
  const Tensor ones = Tensor::empty(probs.shape(), probs.dtype());
  visit_types(input.tokens, [&, &rows = hidden, &factors = probs]<typename T, typename P>(T, P) {
    std::fill(ones.values<P>().begin(), ones.values<P>().end(), P{1});
    for (std::int64_t r = 0; r < rows.size(0); ++r) {
      const P prob = factors.data<P>()[r];
      const auto from = row_of<T>(rows, r), to = row_of<T>(weighted, r);
      for (std::size_t h = 0; h < from.size(); ++h)
        to[h] = static_cast<T>(static_cast<Wide<T>>(prob * static_cast<P>(convert<Wide<T>>(from[h]))));
    }
  });
  return {.tokens = {.hidden = weighted, .probs = ones}, .tokens_per_expert = input.tokens_per_expert};
}

TokenGradients apply_probs_backward(const GroupedTokens& input, const Gradient<Tensor>& weighted) {
  const auto& [hidden, probs] = input.tokens;
  const Tensor grad_hidden = Tensor::empty(hidden.shape(), hidden.dtype());
  const Tensor grad_probs = Tensor::empty(probs.shape(), probs.dtype());
  visit_types(input.tokens, [&, &rows = hidden, &factors = probs]<typename T, typename P>(T, P) {
    for (std::int64_t r = 0; r < rows.size(0); ++r) {
      const P prob = factors.data<P>()[r];
      const auto row = row_of<T>(rows, r), grad = row_of<T>(weighted.value(), r),
                 to = row_of<T>(grad_hidden, r);
      P grad_prob = 0;
      for (std::size_t h = 0; h < row.size(); ++h) {
        const P slope = static_cast<P>(convert<Wide<T>>(grad[h]));
        to[h] = static_cast<T>(static_cast<Wide<T>>(prob * slope));
        grad_prob += slope * static_cast<P>(convert<Wide<T>>(row[h]));
      }
      grad_probs.data<P>()[r] = grad_prob;
    }
  });
  return {.hidden = grad_hidden, .probs = grad_probs};
}

}  // namespace flexep::moe
