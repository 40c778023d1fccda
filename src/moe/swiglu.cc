// SPDX-License-Identifier: Apache-2.0
#include "moe/swiglu.h"

#include <cmath>

#include "moe/rows.h"

namespace flexep::moe {
namespace {

template <typename C>
C logistic(C z) {
  return 1 / (1 + std::exp(-z));
}

template <typename C>
void swiglu_row(const C* gate, const C* up, C prob, std::span<C> activated) {
  for (std::size_t f = 0; f < activated.size(); ++f)
    activated[f] = gate[f] * logistic(gate[f]) * up[f] * prob;
}

// Returns the gradient of the probability.
template <typename C>
C swiglu_row_backward(const C* gate, const C* up, C prob, std::span<const C> grad, C* grad_gate, C* grad_up,
                      C* activated) {
  C grad_prob = 0;
  for (std::size_t f = 0; f < grad.size(); ++f) {
    const C s = logistic(gate[f]), silu = gate[f] * s;
    activated[f] = silu * up[f] * prob;
    grad_prob += grad[f] * silu * up[f];
    grad_gate[f] = grad[f] * prob * up[f] * (s + silu * (1 - s));
    grad_up[f] = grad[f] * prob * silu;
  }
  return grad_prob;
}

// Calls visitor(C{}, P{}) for the types of the rows and of the probs.
template <typename Visitor>
void visit_types(const Tensor& rows, const Tensor& probs, Visitor&& visitor) {
  const bool wide_rows = rows.dtype() == DType::kFloat64, wide_probs = probs.dtype() == DType::kFloat64;
  if (wide_rows) return wide_probs ? visitor(double{}, double{}) : visitor(double{}, float{});
  return wide_probs ? visitor(float{}, double{}) : visitor(float{}, float{});
}

}  // namespace

void swiglu(const Tensor& gate_up, const Tensor& probs, const Tensor& activated) {
  const std::int64_t ffn = activated.size(1);
  visit_types(gate_up, probs, [&]<typename C, typename P>(C, P) {
    for (std::int64_t r = 0; r < activated.size(0); ++r) {
      const C* gate = row_of<C>(gate_up, r).data();
      swiglu_row(gate, gate + ffn, static_cast<C>(probs.data<P>()[r]), row_of<C>(activated, r));
    }
  });
}

void swiglu_backward(const Tensor& gate_up, const Tensor& probs, const Tensor& grad,
                     const SwigluGradients& out) {
  const std::int64_t ffn = grad.size(1);
  visit_types(gate_up, probs, [&]<typename C, typename P>(C, P) {
    for (std::int64_t r = 0; r < grad.size(0); ++r) {
      const C* gate = row_of<C>(gate_up, r).data();
      C* grad_gate = row_of<C>(out.gate_up, r).data();
      out.probs.data<P>()[r] = static_cast<P>(
          swiglu_row_backward<C>(gate, gate + ffn, static_cast<C>(probs.data<P>()[r]), row_of<C>(grad, r),
                                 grad_gate, grad_gate + ffn, row_of<C>(out.activated, r).data()));
    }
  });
}

}  // namespace flexep::moe
