// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "flexep/types.h"
#include "kernels/cpu/store_mode.h"

namespace flexep::cpu {

/// Sums of rows of floating-point elements, in two stages: the rows of a group are summed and rounded to the
/// element type (stage L of docs/numerics.md), the groups are summed and rounded again (stage F).
struct ReduceRows {
  DType dtype = DType::kBFloat16;  ///< is_summable(), of sources and output
  std::size_t num_columns = 0;     ///< elements of a row
  /// [num_rows + 1], output row i sums groups group_begin[i] .. group_begin[i + 1] - 1, in that order.
  std::span<const std::int64_t> group_begin;
  /// [num_groups + 1], group g sums rows sources[source_begin[g]] .. sources[source_begin[g + 1] - 1], in
  /// that order; never empty.
  std::span<const std::int64_t> source_begin;
  std::span<const std::byte* const> sources;
  std::byte* out = nullptr;  ///< num_rows rows, one after the other; overlaps no source
};

/// Writes every output row once.
///
/// A sum starts at +0 and is accumulated in fp32 (fp64 for fp64) in the given order; it is rounded to nearest
/// even by integer arithmetic, subnormals kept, and a NaN result is the canonical quiet NaN (0x7FC0, 0x7E00,
/// 0x7FC00000, 0x7FF8000000000000). One row alone in its group, and one group alone in its output row, are
/// copied bit for bit. No group at all gives zeros. Pointers are multiples of the element size. Bits do not
/// depend on the instruction set.
void reduce_rows(const ReduceRows& job, StoreMode mode);

}  // namespace flexep::cpu
