// SPDX-License-Identifier: Apache-2.0
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <numeric>

#include "common/check.h"
#include "flexep/moe/permute.h"
#include "moe/memory_for.h"

namespace flexep::moe {
namespace {

void check_chunks(const Tensor& rows, const ChunkOrder& chunks) {
  const auto& sizes = chunks.split_sizes;
  const bool has_negative = std::any_of(sizes.begin(), sizes.end(), [](auto size) { return size < 0; });
  const auto num_rows = std::accumulate(sizes.begin(), sizes.end(), std::int64_t{0});
  require_argument(rows.num_dims() >= 1, "rows", "rows must have at least one dimension");
  require_argument(!has_negative && num_rows == rows.size(0), "split_sizes",
                   "split_sizes [{}] must be at least 0 and sum to {} rows", fmt::join(sizes, ", "),
                   rows.size(0));
  std::vector<std::int32_t> expected(sizes.size());
  std::iota(expected.begin(), expected.end(), 0);
  require_argument(
      std::is_permutation(chunks.order.begin(), chunks.order.end(), expected.begin(), expected.end()),
      "order", "order [{}] must be a permutation of {} chunks", fmt::join(chunks.order, ", "), sizes.size());
}

}  // namespace

ChunkOrder ChunkOrder::inverse() const {
  ChunkOrder inverse{.split_sizes = {}, .order = std::vector<std::int32_t>(order.size())};
  for (std::size_t i = 0; i < order.size(); ++i) {
    const auto from = static_cast<std::size_t>(order[i]);
    inverse.split_sizes.push_back(split_sizes[from]);
    inverse.order[from] = static_cast<std::int32_t>(i);
  }
  return inverse;
}

Tensor sort_chunks_by_idxs(const Tensor& rows, const ChunkOrder& chunks, const Tensor& out) {
  check_chunks(rows, chunks);
  const Tensor source = rows.contiguous();
  Tensor sorted = memory_for(out, rows.shape(), rows.dtype());
  if (rows.size(0) == 0) return sorted;
  const std::size_t row_bytes = source.num_bytes() / static_cast<std::size_t>(rows.size(0));
  std::vector<std::int64_t> begins(chunks.split_sizes.size());
  std::exclusive_scan(chunks.split_sizes.begin(), chunks.split_sizes.end(), begins.begin(), std::int64_t{0});

  auto* to = static_cast<std::byte*>(sorted.data());
  for (const std::int32_t chunk : chunks.order) {
    const auto c = static_cast<std::size_t>(chunk);
    const std::size_t num_bytes = static_cast<std::size_t>(chunks.split_sizes[c]) * row_bytes;
    if (num_bytes == 0) continue;
    std::memcpy(
        to, static_cast<const std::byte*>(source.data()) + static_cast<std::size_t>(begins[c]) * row_bytes,
        num_bytes);
    to += num_bytes;
  }
  return sorted;
}

Gradient<Tensor> sort_chunks_by_idxs_backward(const Gradient<Tensor>& grad, const ChunkOrder& chunks,
                                              const Tensor& out) {
  return sort_chunks_by_idxs(grad.value(), chunks.inverse(), out);
}

Tokens sort_chunks_by_idxs(const Tokens& tokens, const ChunkOrder& chunks) {
  return {.hidden = sort_chunks_by_idxs(tokens.hidden, chunks),
          .probs = sort_chunks_by_idxs(tokens.probs, chunks)};
}

TokenGradients sort_chunks_by_idxs_backward(const TokenGradients& grads, const ChunkOrder& chunks) {
  return {.hidden = sort_chunks_by_idxs_backward(grads.hidden, chunks),
          .probs = sort_chunks_by_idxs_backward(grads.probs, chunks)};
}

}  // namespace flexep::moe
