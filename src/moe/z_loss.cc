// SPDX-License-Identifier: Apache-2.0
#include "moe/z_loss.h"

#include <algorithm>
#include <cmath>

#include "moe/rows.h"

namespace flexep::moe {
namespace {

template <typename T>
double log_sum_exp(std::span<const T> logits) {
  const T largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const T logit : logits) sum += std::exp(static_cast<double>(logit - largest));
  return static_cast<double>(largest) + std::log(sum);
}

}  // namespace

template <typename T>
double sum_of_squared_log_sums(const Tensor& logits) {
  double squares = 0;
  for (std::int64_t t = 0; t < logits.size(0); ++t) {
    const double lse = log_sum_exp<T>(row_of<T>(logits, t));
    squares += lse * lse;
  }
  return squares;
}

template <typename T>
void z_loss_backward(const RouterContext& context, double grad_loss, const Tensor& grad_logits) {
  if (!context.logits) return;
  for (std::int64_t t = 0; t < grad_logits.size(0); ++t) {
    const auto logits = row_of<T>(context.logits, t);
    const double lse = log_sum_exp<T>(logits);
    for (std::size_t e = 0; e < logits.size(); ++e)
      row_of<T>(grad_logits, t)[e] += static_cast<T>(grad_loss * context.z_slope * 2 * lse *
                                                     std::exp(static_cast<double>(logits[e]) - lse));
  }
}

template double sum_of_squared_log_sums<float>(const Tensor&);
template double sum_of_squared_log_sums<double>(const Tensor&);
template void z_loss_backward<float>(const RouterContext&, double, const Tensor&);
template void z_loss_backward<double>(const RouterContext&, double, const Tensor&);

}  // namespace flexep::moe
