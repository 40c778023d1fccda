// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// A one-to-many map from token rows to rows grouped by expert: expert-major, source row ascending within an
/// expert.
struct Permutation {
  Tensor sorted_indices;                        ///< int32 [N], the source row of each permuted row
  std::vector<std::int32_t> tokens_per_expert;  ///< [experts], sums to N
  std::int64_t num_rows = 0;                    ///< rows before the permutation
};

struct PermuteResult {
  Tokens tokens;  ///< hidden [N, H] in the dtype of the input, probs [N] = probs[row, expert]
  Permutation permutation;
};

/// Copies each row once for every expert that the map names for it, grouped by expert.
///
/// @param tokens       hidden [M, H] (bf16, fp32, fp64), probs [M, experts] (fp32, fp64).
/// @param routing_map  int32 [M, experts], 1 where the row goes to the expert, else 0.
/// @throws InvalidArgument that names `hidden`, `probs` or `routing_map`.
/// Cost: reads M and writes N rows. Source: Megatron's permute, dropless and without padding.
PermuteResult permute(const Tokens& tokens, const Tensor& routing_map);

/// Gradients of permute: each row's hidden gradient is the sum over its copies, each prob's that of its one
/// copy, 0 elsewhere.
///
/// @param permuted  gradients of PermuteResult::tokens.
/// @param out       [M, H], memory for the hidden gradient; absent = memory of our own.
TokenGradients permute_backward(const TokenGradients& permuted, const Permutation& permutation,
                                const Tensor& out = {});

/// Sums each row's copies, in permuted order (expert ascending), rounding to the dtype after each addition; a
/// row without copies is 0.
///
/// @param permuted  [N, H].
/// @param out       [M, H] of the same dtype, memory for the result; absent = memory of our own.
/// @return [M, H]. @throws InvalidArgument that names `permuted` or `out`.
/// Source: Megatron's unpermute: a scatter-add in the dtype of the permuted rows.
Tensor unpermute(const Tensor& permuted, const Permutation& permutation, const Tensor& out = {});

/// Gradient of unpermute: copies each row's gradient [M, H] to all of its copies [N, H].
Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& grad, const Permutation& permutation,
                                    const Tensor& out = {});

}  // namespace flexep::moe
