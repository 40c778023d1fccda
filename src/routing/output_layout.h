// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/math.h"

namespace flexep {

/// How many rows one rank receives.
struct ReceiveSize {
  int num_recv_tokens = 0;
  int num_expanded_tokens = 0;

  int num_rows(bool do_expand) const { return do_expand ? num_expanded_tokens : num_recv_tokens; }
};

/// The part of an output that is the same on all ranks.
struct OutputFormat {
  bool do_expand = false;
  int num_topk = 1;
  std::size_t row_bytes = 0;     ///< of x
  std::size_t weight_bytes = 0;  ///< of one weight; 0 = no weights
  bool has_metadata = true;      ///< a cached dispatch has none: the handle keeps the first one's
};

/// Where the outputs of a dispatch lie in the region that a destination announced. The one source of truth
/// for both sides: sources store by it, the destination makes its tensors by it.
///
///   x [rows, H] | topk_idx int64 [M, K] (compact) | topk_weights [M, K] or [rows] | metadata int32 [M, K +
///   2]
struct OutputLayout {
  static constexpr std::size_t kAlignment = 128;

  /// Bytes of each part, in its order, a multiple of kAlignment; 0 for an absent part.
  std::size_t x_bytes = 0;
  std::size_t topk_idx_bytes = 0;
  std::size_t topk_weights_bytes = 0;
  std::size_t metadata_bytes = 0;

  OutputLayout(const OutputFormat& format, const ReceiveSize& size) {
    const auto num_rows = static_cast<std::size_t>(size.num_rows(format.do_expand));
    const auto num_tokens = static_cast<std::size_t>(size.num_recv_tokens);
    const auto num_topk = static_cast<std::size_t>(format.num_topk);
    const std::size_t num_weights = format.do_expand ? num_rows : num_tokens * num_topk;
    x_bytes = align_up(num_rows * format.row_bytes, kAlignment);
    topk_idx_bytes =
        format.do_expand ? 0 : align_up(num_tokens * num_topk * sizeof(std::int64_t), kAlignment);
    topk_weights_bytes = align_up(num_weights * format.weight_bytes, kAlignment);
    metadata_bytes =
        format.has_metadata ? align_up(num_tokens * (num_topk + 2) * sizeof(std::int32_t), kAlignment) : 0;
  }

  std::size_t topk_idx_offset() const { return x_bytes; }
  std::size_t topk_weights_offset() const { return x_bytes + topk_idx_bytes; }
  std::size_t metadata_offset() const { return topk_weights_offset() + topk_weights_bytes; }
  std::size_t num_bytes() const { return metadata_offset() + metadata_bytes; }
};

}  // namespace flexep
