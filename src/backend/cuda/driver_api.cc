// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/driver_api.h"

#include <cuda_runtime_api.h>
#include <fmt/format.h>

#include "flexep/error.h"

namespace flexep::cuda {
namespace {

template <typename Function>
void look_up(const char* name, Function& function) {
  constexpr unsigned kVersion = 12000;
  void* address = nullptr;
  cudaDriverEntryPointQueryResult found = cudaDriverEntryPointSymbolNotFound;
  const cudaError_t error =
      cudaGetDriverEntryPointByVersion(name, &address, kVersion, cudaEnableDefault, &found);
  if (error != cudaSuccess || found != cudaDriverEntryPointSuccess) {
    throw CudaError(fmt::format("there is no CUDA driver that has {}: {}", name, cudaGetErrorString(error)));
  }
  function = reinterpret_cast<Function>(address);
}

DriverApi load() {
  DriverApi api;
  look_up("cuGetErrorString", api.error_string);
  look_up("cuDeviceGetAttribute", api.device_attribute);
  look_up("cuMemGetAllocationGranularity", api.granularity);
  look_up("cuMemCreate", api.create);
  look_up("cuMemRelease", api.release);
  look_up("cuMemAddressReserve", api.reserve_address);
  look_up("cuMemAddressFree", api.free_address);
  look_up("cuMemMap", api.map);
  look_up("cuMemUnmap", api.unmap);
  look_up("cuMemSetAccess", api.set_access);
  look_up("cuMemRetainAllocationHandle", api.retain);
  look_up("cuMemGetAddressRange", api.address_range);
  look_up("cuPointerGetAttribute", api.pointer_attribute);
  look_up("cuMemExportToShareableHandle", api.export_handle);
  look_up("cuMemImportFromShareableHandle", api.import_handle);
  return api;
}

}  // namespace

const DriverApi& driver() {
  static const DriverApi api = load();
  return api;
}

}  // namespace flexep::cuda
