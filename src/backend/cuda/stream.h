// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
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
  int device_;
  int previous_ = 0;
};

/// A point in a stream. CUDA's event for it comes from a pool: to make one costs more than to record it.
class StreamEvent {
 public:
  /// The end of what `stream` has been given so far. Where the stream is being captured, the point is one of
  /// the graph, and nobody else's. @throws CudaError.
  explicit StreamEvent(cudaStream_t stream);
  StreamEvent(const StreamEvent&) = delete;
  StreamEvent& operator=(const StreamEvent&) = delete;

  /// @throws CudaError, also for what failed on the stream before the point; InvalidArgument for a point of a
  /// graph.
  bool is_done() const;
  /// Blocks this thread. @throws as is_done.
  void wait() const;
  /// Whatever `stream` is given from now on starts after the point. A stream that is being captured joins the
  /// capture to which the point belongs; a graph follows a point outside of it by the host's waiting here.
  void hold_back(cudaStream_t stream) const;
  /// Whether who waits for this point has waited for the other one, too.
  bool covers(const StreamEvent& other) const {
    return !is_captured_ && stream_id_ == other.stream_id_ && number_ >= other.number_;
  }

 private:
  bool is_on(cudaStream_t stream) const;

  cudaStream_t stream_ = nullptr;
  unsigned long long stream_id_ = 0;  ///< CUDA's, of a stream that was not captured
  std::uint64_t number_ = 0;          ///< later points of a stream have larger ones
  bool is_captured_ = false;
  std::shared_ptr<CUevent_st> event_;
};

/// The communication stream of this thread, which is a rank, on the current device: one for all its buffers,
/// so that kernels that wait for other ranks are in one order on every rank. Does not wait for the default
/// stream.
std::shared_ptr<CUstream_st> communication_stream();
/// The same if a buffer has it already, else null.
std::shared_ptr<CUstream_st> living_communication_stream();

}  // namespace flexep::cuda
