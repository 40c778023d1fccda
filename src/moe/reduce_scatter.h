// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "flexep/row_collectives.h"
#include "moe/floating.h"

namespace flexep::moe {

/// reduce_scatter in the precision of `precision` (Megatron sums in the type of the probabilities), cast
/// back. A collective sums in fp32 or better and rounds once, so that only fp64 asks for a copy.
inline Tensor reduce_scatter_in(DType precision, RowCollectives& ranks, const Tensor& rows,
                                std::span<const std::int32_t> num_rows_per_rank) {
  if (precision != DType::kFloat64) return ranks.reduce_scatter(rows, num_rows_per_rank);
  return cast(ranks.reduce_scatter(cast(rows, precision), num_rows_per_rank), rows.dtype());
}

}  // namespace flexep::moe
