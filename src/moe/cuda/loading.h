// SPDX-License-Identifier: Apache-2.0
#pragma once

namespace flexep::moe::on_cuda {

/// @throws InvalidArgument unless the driver has loaded all kernels by the time that the first one runs
/// (CUDA_MODULE_LOADING=EAGER): to load one later waits for other ranks', where these are threads.
void require_eager_loading();

}  // namespace flexep::moe::on_cuda
