// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace flexep::cuda {

/// Loads every kernel of this library onto the current device and raises its shared-memory limit. To be
/// called once for a device, before the first operation on it and not while one runs: loading waits for
/// everything that runs, which may be waiting for a kernel that is still to be loaded.
cudaError_t load_kernels();

}  // namespace flexep::cuda
