// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <memory>

namespace flexep::cuda {

/// While some stream of the process is captured, CUDA forbids calls on all its threads that could touch it.
/// Lets this thread make them: ours do not.
class RelaxedCapture {
 public:
  RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  ~RelaxedCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }
  RelaxedCapture(const RelaxedCapture&) = delete;
  RelaxedCapture& operator=(const RelaxedCapture&) = delete;

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

/// Whether what the stream is given now becomes part of a graph. @throws CudaError.
bool is_captured(cudaStream_t stream);

/// Keeps `what` until the graph into which `stream` is being captured is gone, and whatever was instantiated
/// from it, and its last replay. @throws CudaError.
void keep_with_graph_of(cudaStream_t stream, std::shared_ptr<const void> what);
/// Destroys what graphs that are gone have kept: not done where CUDA tells of their end, since nothing of
/// CUDA may be called there.
void release_from_gone_graphs();

}  // namespace flexep::cuda
