// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/nvtx_range.h"

namespace flexep::cuda {

NvtxRange::NvtxRange(const char*) {}
NvtxRange::~NvtxRange() = default;

}  // namespace flexep::cuda
