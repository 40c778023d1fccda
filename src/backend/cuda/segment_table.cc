// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/segment_table.h"

#include <cstring>

#include "backend/cuda/pinned_memory.h"

namespace flexep::cuda {

SegmentTable::SegmentTable(int num_ranks) {
  const std::size_t num_bytes = static_cast<std::size_t>(num_ranks) * kMaxSegments * sizeof(std::byte*);
  memory_ = pin_memory(num_bytes);
  std::memset(memory_.get(), 0, num_bytes);
}

}  // namespace flexep::cuda
