// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// The two projections of every local expert, as values or gradients. F is the feed-forward size that this
/// rank holds.
template <typename T>
struct ExpertWeights {
  T fc1;  ///< [El, 2F, H]: rows 0 .. F - 1 are the gate, rows F .. 2F - 1 the up projection
  T fc2;  ///< [El, H, F]
};

/// What experts_backward needs of a forward pass. Keeps the input rows alive.
struct ExpertsContext {
  GroupedTokens input;
  Tensor fc1_output;  ///< [rows, 2F], in the dtype of the weights; on a GPU bf16 and fp16 stay what they are
};

struct ExpertsForward {
  Tensor output;  ///< [rows, H] in the dtype of the input rows
  ExpertsContext context;
};

/// SwiGLU experts over grouped rows, all tensors contiguous and the host's: out = ((silu(x Wg^T) * x Wu^T) *
/// prob) Wd^T, for each expert on its own rows.
///
/// A row is scaled by its probability after the activation, as Megatron does, so that combine can sum rows as
/// they are. Arithmetic is in the dtype of the weights: bf16 rows are widened to fp32 and the result is
/// rounded once. OpenBLAS, one thread per rank, so that results repeat bit for bit; the first call sets
/// OpenBLAS to one thread for the whole process.
/// @param weights  fp32 or fp64; fp64 exactly when the rows are fp64.
/// @param input    hidden [rows, H], probs [rows] (fp32, fp64); experts may have no rows.
/// @param out      [rows, H] in the dtype of the rows: written completely. Arena memory makes the combine
/// after it free of copies.
/// @throws InvalidArgument that names `fc1`, `fc2`, `hidden`, `probs`, `tokens_per_expert` or `out`.
/// Cost: 3 * rows * H * F multiply-adds, the backward twice that.
ExpertsForward experts_forward(const ExpertWeights<Tensor>& weights, const GroupedTokens& input,
                               const Tensor& out);

struct ExpertsGradients {
  TokenGradients tokens;                    ///< of the input rows (their dtype) and probs (their dtype)
  ExpertWeights<Gradient<Tensor>> weights;  ///< complete: this rank has seen every token of its experts
};

/// @param output      gradient of ExpertsForward::output.
/// @param out_hidden  [rows, H] in the dtype of the rows, memory for the gradient of the input rows: written
/// completely.
ExpertsGradients experts_backward(const ExpertWeights<Tensor>& weights, const ExpertsContext& context,
                                  const Gradient<Tensor>& output, const Tensor& out_hidden);

}  // namespace flexep::moe
