// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/tensor.h"

namespace flexep::moe {

/// activated[r, f] = silu(gate[r, f]) * up[r, f] * probs[r], with silu(z) = z / (1 + exp(-z)).
/// @param gate_up    [rows, 2F], fp32 or fp64: a row is its gate, then its up projection.
/// @param probs      [rows], fp32 or fp64.
/// @param activated  [rows, F] in the type of gate_up, written.
void swiglu(const Tensor& gate_up, const Tensor& probs, const Tensor& activated);

/// What swiglu_backward writes.
struct SwigluGradients {
  Tensor gate_up;    ///< [rows, 2F]
  Tensor probs;      ///< [rows]
  Tensor activated;  ///< [rows, F], not a gradient but swiglu's output again: the down projection's gradient
                     ///< needs it
};

/// One pass over what the forward saved, so that each exponential is taken once.
/// @param grad  [rows, F], of swiglu's output.
void swiglu_backward(const Tensor& gate_up, const Tensor& probs, const Tensor& grad,
                     const SwigluGradients& out);

}  // namespace flexep::moe
