// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/stream.h"

#include <map>

#include "backend/cuda/check_cuda.h"

namespace flexep::cuda {
namespace {

std::weak_ptr<CUstream_st>& stream_of_this_thread() {
  thread_local std::map<int, std::weak_ptr<CUstream_st>> streams;
  int device = 0;
  check(cudaGetDevice(&device), "name the current device");
  return streams[device];
}

}  // namespace

DeviceGuard::DeviceGuard(int device) {
  check(cudaGetDevice(&previous_), "name the current device");
  if (device != previous_) check(cudaSetDevice(device), "use a device");
}

DeviceGuard::~DeviceGuard() {
  cudaSetDevice(previous_);
}

StreamEvent::StreamEvent(cudaStream_t stream) {
  check(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "make an event");
  const cudaError_t error = cudaEventRecord(event_, stream);
  if (error != cudaSuccess) cudaEventDestroy(event_);
  check(error, "record an event");
}

StreamEvent::~StreamEvent() {
  cudaEventDestroy(event_);
}

bool StreamEvent::is_done() const {
  const cudaError_t state = cudaEventQuery(event_);
  if (state == cudaErrorNotReady) return false;
  check(state, "finish what was started on the device");
  return true;
}

void StreamEvent::wait() const {
  check(cudaEventSynchronize(event_), "finish what was started on the device");
}

void StreamEvent::hold_back(cudaStream_t stream) const {
  check(cudaStreamWaitEvent(stream, event_), "let a stream wait");
}

std::shared_ptr<CUstream_st> living_communication_stream() {
  return stream_of_this_thread().lock();
}

std::shared_ptr<CUstream_st> communication_stream() {
  if (auto stream = living_communication_stream()) return stream;
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "name the priorities of streams");
  cudaStream_t stream = nullptr;
  // First in line: while rows are late, others wait.
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, highest), "make a stream");
  const std::shared_ptr<CUstream_st> shared(stream, cudaStreamDestroy);
  stream_of_this_thread() = shared;
  return shared;
}

}  // namespace flexep::cuda
