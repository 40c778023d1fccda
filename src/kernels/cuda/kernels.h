// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

namespace flexep::cuda {

/// Loads every kernel of this library onto the current device and raises its shared-memory limit. To be
/// called once for a device, before the first operation on it and not while one runs: loading waits for
/// everything that runs, which may be waiting for a kernel that is still to be loaded.
cudaError_t load_kernels();

/// Uses a stream for the first time and waits for it. Every stream on which operations run needs this, before
/// the first of them and while no operation runs: the first launch on a stream may wait for kernels that run
/// already, and those for it (seen in half of all processes whose ranks launch from threads of their own).
/// Follows load_kernels().
cudaError_t prepare_stream(cudaStream_t stream);

}  // namespace flexep::cuda
