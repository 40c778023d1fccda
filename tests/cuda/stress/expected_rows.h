// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <vector>

#include "cuda/stress/round.h"

namespace flexep::stress {

/// What has to be in a row: that of a source rank's token, times `scale`.
struct ExpectedRow {
  static constexpr std::int32_t kZeros = -1;
  static constexpr std::int32_t kAnything = -2;  ///< a gap that nobody has asked to zero

  std::int32_t src_rank = kAnything;
  std::int32_t token = 0;
  float scale = 1;
};

/// Experts multiply by powers of two, small enough for sums of all dtypes to be exact.
inline float scale_of_expert(std::int64_t expert) {
  return static_cast<float>(1 << (expert % 4));
}

/// What one rank has to receive, by the definition of the layouts. Written apart from the library on purpose.
struct ExpectedDispatch {
  std::vector<ExpectedRow> rows;
  std::vector<float> expert_scales;          ///< what this rank's experts make of each row, gaps included
  std::vector<std::int64_t> topk_idx;        ///< compact: [M, K]
  std::vector<float> topk_weights;           ///< compact: [M, K]; expanded: [rows], 0 in gaps
  std::vector<std::int32_t> num_per_expert;  ///< before alignment
};

ExpectedDispatch expected_dispatch(const Round& round, int rank);

/// What combine has to bring back to one rank.
struct ExpectedCombine {
  std::vector<ExpectedRow> rows;    ///< [T]
  std::vector<float> topk_weights;  ///< [T, K]
};

ExpectedCombine expected_combine(const Round& round, int rank);

}  // namespace flexep::stress
