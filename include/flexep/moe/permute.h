// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "flexep/moe/tokens.h"

namespace flexep::moe {

/// A one-to-many map from token rows to rows grouped by expert: expert-major, source row ascending within an
/// expert.
struct Permutation {
  Tensor sorted_indices;  ///< int32 [N], the source row of each permuted row; -1 for a row of padding
  Tensor sorted_experts;  ///< int32 [N], the expert of each permuted row
  std::vector<std::int32_t> tokens_per_expert;  ///< [experts], rows of each expert, padding included
  std::vector<std::int32_t> pad_offsets;  ///< [experts], rows of padding before an expert's; empty = none
  std::int64_t num_rows = 0;              ///< rows before the permutation
};

struct PermuteOptions {
  /// N. Absent = as many rows as the map has pairs. With fewer the last pairs are left out; with more, pairs
  /// that the map does not name follow the last expert's rows, in the same order, with their own probs.
  std::optional<std::int64_t> num_out_tokens;
  /// Every expert gets exactly num_out_tokens / experts rows: the first of those that the map names, then
  /// rows that it does not name, lowest first, with their own probs (0 when they come from a router).
  bool drop_and_pad = false;
  /// Rows of zeros, with prob 0, follow each expert's up to a multiple of this; 0 or 1 = none.
  int align_size = 0;
  /// Makes the memory that the rows [N, H] are written to; absent = memory of our own.
  std::function<Tensor(const Shape& shape, DType dtype)> memory;
};

struct PermuteResult {
  Tokens tokens;  ///< hidden [N, H] in the dtype of the input, probs [N] = probs[row, expert]
  Permutation permutation;
};

/// Copies each row once for every expert that the map names for it, grouped by expert. Padding, too, is
/// written in the same pass.
///
/// @param tokens       hidden [M, H] (bf16, fp16, fp32, fp64), probs [M, experts] (fp32, fp64).
/// @param routing_map  int32 [M, experts], not 0 where the row goes to the expert.
/// @throws InvalidArgument that names `hidden`, `probs`, `routing_map`, `num_out_tokens` or `align_size`.
/// Cost: reads each of M rows once and writes N rows. Source: Megatron's permute.
PermuteResult permute(const Tokens& tokens, const Tensor& routing_map, const PermuteOptions& options = {});

/// Gradients of permute: each row's hidden gradient is the sum over its copies, each prob's that of its one
/// copy, 0 elsewhere. Gradients of padding are not read.
///
/// @param permuted  gradients of PermuteResult::tokens.
/// @param out       [M, H], memory for the hidden gradient; absent = memory of our own.
TokenGradients permute_backward(const TokenGradients& permuted, const Permutation& permutation,
                                const Tensor& out = {});

/// Sums each row's copies, in permuted order (expert ascending), rounding to the dtype after each addition; a
/// row without copies is 0. Rows of padding are not read.
///
/// @param permuted  [N, H].
/// @param out       [M, H] of the same dtype, memory for the result; absent = memory of our own.
/// @return [M, H]. @throws InvalidArgument that names `permuted` or `out`.
/// Cost: reads N rows and writes M rows. Source: Megatron's unpermute: a scatter-add in the dtype of the
/// permuted rows.
Tensor unpermute(const Tensor& permuted, const Permutation& permutation, const Tensor& out = {});

/// Gradient of unpermute: copies each row's gradient [M, H] to all of its copies [N, H]; padding gets zeros.
Gradient<Tensor> unpermute_backward(const Gradient<Tensor>& grad, const Permutation& permutation,
                                    const Tensor& out = {});

/// The same with weights: each copy times its prob. Sums are kept in the wider type of rows and probs, fp32
/// at least, and rounded once.
///
/// @param permuted  hidden [N, H], probs [M, experts] (fp32, fp64).
/// @throws InvalidArgument that names `permuted`, `probs` or `out`.
Tensor unpermute(const Tokens& permuted, const Permutation& permutation, const Tensor& out = {});

/// @param permuted  what the forward was given.
/// @return hidden [N, H], probs [M, experts], 0 for pairs that were not permuted.
TokenGradients unpermute_backward(const Gradient<Tensor>& grad, const Tokens& permuted,
                                  const Permutation& permutation);

/// Rows in chunks, one after the other, and the order in which to put them.
struct ChunkOrder {
  std::vector<std::int64_t> split_sizes;  ///< rows of each chunk
  std::vector<std::int32_t> order;        ///< a permutation: chunk order[i] comes i-th

  /// Puts sorted chunks back to where they came from.
  ChunkOrder inverse() const;
};

/// Splits rows into chunks and concatenates them in another order.
///
/// @param rows  [M, ...] of any type, M the sum of split_sizes. @param out  memory for the result; absent =
/// memory of our own.
/// @throws InvalidArgument that names `rows`, `split_sizes`, `order` or `out`.
/// Cost: reads and writes M rows.
Tensor sort_chunks_by_idxs(const Tensor& rows, const ChunkOrder& chunks, const Tensor& out = {});
Gradient<Tensor> sort_chunks_by_idxs_backward(const Gradient<Tensor>& grad, const ChunkOrder& chunks,
                                              const Tensor& out = {});

/// The same for rows and their probs, [M, H] and [M].
Tokens sort_chunks_by_idxs(const Tokens& tokens, const ChunkOrder& chunks);
TokenGradients sort_chunks_by_idxs_backward(const TokenGradients& grads, const ChunkOrder& chunks);

/// The routing map with, for each expert, as many of its first zeros made ones as bring its count to a
/// multiple of `align_size`; with too few zeros all become ones. Pairs that are added this way have prob 0,
/// so that results stay what they are.
///
/// @param routing_map  int32 [M, experts]. @return a copy. @throws InvalidArgument that names `routing_map`
/// or `align_size`. Source: Megatron's pad_routing_map, which changes its argument instead.
Tensor pad_routing_map(const Tensor& routing_map, int align_size);

}  // namespace flexep::moe
