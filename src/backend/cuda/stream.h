// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

namespace flexep::cuda {

/// Makes a device the current one of this thread, for as long as it lives.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_ = 0;
};

/// A point in a stream.
class StreamEvent {
 public:
  /// The end of what `stream` has been given so far. @throws CudaError.
  explicit StreamEvent(cudaStream_t stream);
  ~StreamEvent();
  StreamEvent(const StreamEvent&) = delete;
  StreamEvent& operator=(const StreamEvent&) = delete;

  /// @throws CudaError, also for what failed on the stream before the point.
  bool is_done() const;
  /// Blocks this thread. @throws as is_done.
  void wait() const;
  /// Whatever `stream` is given from now on starts after the point.
  void hold_back(cudaStream_t stream) const;

 private:
  cudaEvent_t event_ = nullptr;
};

/// The communication stream of this thread, which is a rank, on the current device: one for all its buffers,
/// so that kernels that wait for other ranks are in one order on every rank. Does not wait for the default
/// stream.
std::shared_ptr<CUstream_st> communication_stream();
/// The same if a buffer has it already, else null.
std::shared_ptr<CUstream_st> living_communication_stream();

}  // namespace flexep::cuda
