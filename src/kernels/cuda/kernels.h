// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace flexep::cuda {

/// Loads every kernel of this library onto the current device and raises its shared-memory limit. To be
/// called once for a device before the first operation on it: a first launch loads code, which waits for
/// everything that runs.
cudaError_t load_kernels();

}  // namespace flexep::cuda
