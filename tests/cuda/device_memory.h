// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <stdexcept>
#include <string>

#include "flexep/tensor.h"

namespace flexep::testing {

inline void require(cudaError_t error, const char* what) {
  if (error != cudaSuccess) throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

/// Device memory that is handed out piece by piece and taken back as a whole. Allocated once, because
/// allocating waits for kernels that may be waiting for each other.
class DeviceMemory {
 public:
  static constexpr std::size_t kAlignment = 256;

  explicit DeviceMemory(std::size_t num_bytes) : num_bytes_(num_bytes) {
    require(cudaMalloc(reinterpret_cast<void**>(&data_), num_bytes), "cudaMalloc");
    require(cudaMemset(data_, 0, num_bytes), "cudaMemset");
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  std::byte* data() const { return data_; }
  std::size_t num_bytes() const { return num_bytes_; }
  void clear() { used_ = 0; }

  std::byte* take(std::size_t num_bytes) {
    std::byte* piece = data_ + used_;
    used_ += (num_bytes + kAlignment - 1) / kAlignment * kAlignment;
    if (used_ > num_bytes_) throw std::runtime_error("the test's device memory is too small");
    return piece;
  }

  /// Null for "no tensor". The tensor is contiguous.
  std::byte* upload(const Tensor& tensor) {
    if (!tensor) return nullptr;
    std::byte* piece = take(tensor.num_bytes());
    require(cudaMemcpy(piece, tensor.data(), tensor.num_bytes(), cudaMemcpyHostToDevice), "upload");
    return piece;
  }

 private:
  std::byte* data_ = nullptr;
  std::size_t num_bytes_ = 0;
  std::size_t used_ = 0;
};

inline Tensor download(const void* from, const Shape& shape, DType dtype) {
  Tensor tensor = Tensor::empty(shape, dtype);
  require(cudaMemcpy(tensor.data(), from, tensor.num_bytes(), cudaMemcpyDeviceToHost), "download");
  return tensor;
}

}  // namespace flexep::testing
