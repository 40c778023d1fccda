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

  constexpr int num_rows(bool do_expand) const { return do_expand ? num_expanded_tokens : num_recv_tokens; }
};

/// The part of an output that is the same on all ranks.
struct OutputFormat {
  bool do_expand = false;
  int num_topk = 1;
  std::size_t row_bytes = 0;     ///< of x
  std::size_t idx_bytes = 8;     ///< of one id
  std::size_t weight_bytes = 0;  ///< of one weight; 0 = no weights
  int num_sf_packs = 0;          ///< scaling factors of a row, 4 bytes each; 0 = none
  bool sf_is_col_major = false;
  bool has_metadata = true;  ///< a cached dispatch has none: the handle keeps the first one's
};

/// Where the outputs of a dispatch lie in the region that a destination announced. The one source of truth
/// for both sides: sources store by it, the destination makes its tensors by it. Usable in device code.
///
///   x [rows, H] | sf [rows, P] | topk_idx [M, K] (compact) | topk_weights [M, K] or [rows] | metadata int32
///   [M, K + 2]
struct OutputLayout {
  static constexpr std::size_t kAlignment = 128;
  static constexpr std::size_t kSfBytes = 4;
  /// A column of column-major scaling factors is this many rows long, or a multiple.
  static constexpr std::size_t kSfColumnAlignment = 4;

  /// Bytes of each part, in its order, a multiple of kAlignment; 0 for an absent part.
  std::size_t x_bytes = 0;
  std::size_t sf_bytes = 0;
  std::size_t topk_idx_bytes = 0;
  std::size_t topk_weights_bytes = 0;
  std::size_t metadata_bytes = 0;
  /// Of sf, in elements.
  std::int64_t sf_row_stride = 0;
  std::int64_t sf_pack_stride = 0;

  constexpr OutputLayout(const OutputFormat& format, const ReceiveSize& size) {
    const auto num_rows = static_cast<std::size_t>(size.num_rows(format.do_expand));
    const auto num_tokens = static_cast<std::size_t>(size.num_recv_tokens);
    const auto num_topk = static_cast<std::size_t>(format.num_topk);
    const std::size_t num_weights = format.do_expand ? num_rows : num_tokens * num_topk;
    const auto num_packs = static_cast<std::size_t>(format.num_sf_packs);
    const std::size_t num_sf_rows =
        format.sf_is_col_major ? align_up(num_rows, kSfColumnAlignment) : num_rows;
    x_bytes = align_up(num_rows * format.row_bytes, kAlignment);
    sf_bytes = align_up(num_sf_rows * num_packs * kSfBytes, kAlignment);
    sf_row_stride = format.sf_is_col_major ? 1 : format.num_sf_packs;
    sf_pack_stride = format.sf_is_col_major ? static_cast<std::int64_t>(num_sf_rows) : 1;
    topk_idx_bytes = format.do_expand ? 0 : align_up(num_tokens * num_topk * format.idx_bytes, kAlignment);
    topk_weights_bytes = align_up(num_weights * format.weight_bytes, kAlignment);
    metadata_bytes =
        format.has_metadata ? align_up(num_tokens * (num_topk + 2) * sizeof(std::int32_t), kAlignment) : 0;
  }

  constexpr std::size_t sf_offset() const { return x_bytes; }
  constexpr std::size_t topk_idx_offset() const { return sf_offset() + sf_bytes; }
  constexpr std::size_t topk_weights_offset() const { return topk_idx_offset() + topk_idx_bytes; }
  constexpr std::size_t metadata_offset() const { return topk_weights_offset() + topk_weights_bytes; }
  constexpr std::size_t num_bytes() const { return metadata_offset() + metadata_bytes; }
};

}  // namespace flexep
