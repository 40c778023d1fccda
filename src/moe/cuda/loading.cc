// SPDX-License-Identifier: Apache-2.0
#include "moe/cuda/loading.h"

#include <cuda.h>
#include <cuda_runtime_api.h>

#include "common/check.h"
#include "moe/cuda/check.h"

namespace flexep::moe::on_cuda {

void require_eager_loading() {
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  check(
      cudaGetDriverEntryPointByVersion("cuModuleGetLoadingMode", &address, 12000, cudaEnableDefault, &found),
      "find out when kernels are loaded");
  CUmoduleLoadingMode mode = CU_MODULE_LAZY_LOADING;
  if (found == cudaDriverEntryPointSuccess)
    reinterpret_cast<decltype(&cuModuleGetLoadingMode)>(address)(&mode);
  require_argument(mode == CU_MODULE_EAGER_LOADING, "device",
                   "ranks of a MoE layer that are threads and share a GPU need all kernels loaded before the "
                   "first one runs: set CUDA_MODULE_LOADING=EAGER before this program uses CUDA, or let each "
                   "rank be a process");
}

}  // namespace flexep::moe::on_cuda
