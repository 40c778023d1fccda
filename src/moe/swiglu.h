// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>

namespace flexep::moe {

template <typename C>
C logistic(C x) {
  return 1 / (1 + std::exp(-x));
}

/// activated[r, f] = silu(gate[r, f]) * up[r, f] * probs[r].
/// @param gate_up  [num_rows, 2 * ffn]: a row is its gate, then its up projection.
/// @param probs    [num_rows], of any floating type P.
template <typename C, typename P>
void swiglu(const C* gate_up, const P* probs, std::int64_t num_rows, std::int64_t ffn, C* activated) {
  for (std::int64_t r = 0; r < num_rows; ++r, gate_up += 2 * ffn, activated += ffn) {
    const C prob = static_cast<C>(probs[r]);
    for (std::int64_t f = 0; f < ffn; ++f)
      activated[f] = gate_up[f] * logistic(gate_up[f]) * gate_up[ffn + f] * prob;
  }
}

/// @param grad          [num_rows, ffn], of `activated`.
/// @param grad_gate_up  [num_rows, 2 * ffn], written.
/// @param grad_probs    [num_rows], written.
template <typename C, typename P>
void swiglu_backward(const C* gate_up, const P* probs, const C* grad, std::int64_t num_rows, std::int64_t ffn,
                     C* grad_gate_up, P* grad_probs) {
  for (std::int64_t r = 0; r < num_rows; ++r, gate_up += 2 * ffn, grad_gate_up += 2 * ffn, grad += ffn) {
    const C prob = static_cast<C>(probs[r]);
    C grad_prob = 0;
    for (std::int64_t f = 0; f < ffn; ++f) {
      const C gate = gate_up[f], up = gate_up[ffn + f];
      const C s = logistic(gate), silu = gate * s;
      grad_prob += grad[f] * silu * up;
      grad_gate_up[f] = grad[f] * prob * up * (s + silu * (1 - s));
      grad_gate_up[ffn + f] = grad[f] * prob * silu;
    }
    grad_probs[r] = static_cast<P>(grad_prob);
  }
}

}  // namespace flexep::moe
