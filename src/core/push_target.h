// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "backend/backend.h"
#include "routing/output_layout.h"

namespace flexep {

/// The parts of an output that lies at `region`.
inline PushTarget target_in(const OutputFormat& format, const ReceiveSize& size, std::byte* region) {
  const OutputLayout layout(format, size);
  PushTarget target{.x = region};
  if (layout.sf_bytes > 0) {
    target.sf = reinterpret_cast<std::uint32_t*>(region + layout.sf_offset());
    target.sf_row_stride = layout.sf_row_stride;
    target.sf_pack_stride = layout.sf_pack_stride;
  }
  if (layout.topk_idx_bytes > 0) target.topk_idx = region + layout.topk_idx_offset();
  if (layout.topk_weights_bytes > 0) target.topk_weights = region + layout.topk_weights_offset();
  if (layout.metadata_bytes > 0)
    target.metadata = reinterpret_cast<std::int32_t*>(region + layout.metadata_offset());
  return target;
}

}  // namespace flexep
