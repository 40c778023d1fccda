// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace flexep::cuda {

/// What this thread does while it lives, by name in the timeline of a profiler (Nsight Systems), in the
/// domain "flexep". Does nothing unless built with FLEXEP_NVTX.
class NvtxRange {
 public:
  explicit NvtxRange(const char* name);
  ~NvtxRange();
  NvtxRange(const NvtxRange&) = delete;
  NvtxRange& operator=(const NvtxRange&) = delete;
};

}  // namespace flexep::cuda
