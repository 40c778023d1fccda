// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "plan/load.h"

namespace flexep::tool {

/// Rows of one rank, counted in the direction of dispatch.
struct MemoryFlow {
  double tokens = 0;        ///< its own
  double placed = 0;        ///< that lie for its experts
  double crossing_out = 0;  ///< between domains; each is staged on both sides
  double crossing_in = 0;
};

/// Sets what its memory reads and writes.
void add_memory_rows(Operation operation, const MemoryFlow& flow, RankLoad& load);

}  // namespace flexep::tool
