// SPDX-License-Identifier: Apache-2.0
//
// In a build of flexep with CUDA.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <stdexcept>

#include "flexep/cuda.h"
#include "moe_lm/layer_memory.h"

namespace moe_lm {
namespace {

void require(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

}  // namespace

std::string why_no_gpu(bool ranks_are_threads) {
  // Each of a thread's streams needs a queue of its own; processes share the GPU's under MPS.
  setenv("CUDA_DEVICE_MAX_CONNECTIONS", ranks_are_threads ? "32" : "8", /*overwrite=*/1);
  // A kernel that is loaded late waits for those of other threads, which may wait for this one.
  if (ranks_are_threads) setenv("CUDA_MODULE_LOADING", "EAGER", /*overwrite=*/1);
  int num_devices = 0;
  const cudaError_t error = cudaGetDeviceCount(&num_devices);
  if (error != cudaSuccess) return cudaGetErrorString(error);
  return num_devices > 0 ? "" : "this machine has no GPU";
}

flexep::Device use_gpu_of(int rank) {
  int num_devices = 0;
  require(cudaGetDeviceCount(&num_devices));
  const int index = rank % num_devices;
  require(cudaSetDevice(index));
  return flexep::Device::cuda(index);
}

flexep::Tensor to_layer(const flexep::Tensor& tensor, flexep::Device device) {
  return device.is_host() ? tensor : flexep::cuda::to_device(tensor, device);
}

flexep::Tensor to_host(const flexep::Tensor& tensor) {
  return tensor.device().is_host() ? tensor : flexep::cuda::to_host(tensor);
}

void copy_to_layer(const flexep::Tensor& tensor, const flexep::Tensor& out) {
  if (!out.device().is_host()) flexep::cuda::copy_to_device(tensor, out);
}

}  // namespace moe_lm
