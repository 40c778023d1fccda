// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/cpu/store_mode.h"

namespace flexep::cpu {

/// Rows of memory, each to be stored at any number of places.
struct ScatterRows {
  const std::byte* src = nullptr;  ///< the first row
  std::size_t src_stride = 0;      ///< bytes from one row to the next; 0 repeats the row
  std::size_t row_bytes = 0;
  /// [num_rows + 1], row i goes to dsts[dst_begin[i]] .. dsts[dst_begin[i + 1] - 1].
  std::span<const std::int64_t> dst_begin;
  std::span<std::byte* const> dsts;
};

/// Reads each row once and stores it to its places, bit for bit. Places do not overlap each other or the
/// source. With StoreMode::kStreaming the stores have left this core's write-combining buffers when the
/// function returns.
void scatter_rows(const ScatterRows& job, StoreMode mode);

}  // namespace flexep::cpu
