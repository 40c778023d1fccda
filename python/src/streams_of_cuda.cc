// SPDX-License-Identifier: Apache-2.0
#include "flexep/cuda.h"
#include "streams.h"

namespace flexep::python {
namespace {

cudaStream_t stream_with(StreamHandle handle) {
  return reinterpret_cast<cudaStream_t>(handle);
}

}  // namespace

bool has_cuda() {
  return true;
}

void run_on(StreamHandle stream, const std::function<void()>& work) {
  const cuda::StreamGuard guard(stream_with(stream));
  work();
}

Event capture_on(StreamHandle stream) {
  const cuda::StreamGuard guard(stream_with(stream));
  return cuda::capture();
}

void let_wait(StreamHandle stream, const Event& event) {
  cuda::wait(event, stream_with(stream));
}

void let_use(StreamHandle stream, const Tensor& tensor) {
  cuda::wait(tensor, stream_with(stream));
  cuda::record_stream(tensor, stream_with(stream));
}

void record_stream(const Tensor& tensor, StreamHandle stream) {
  cuda::record_stream(tensor, stream_with(stream));
}

StreamHandle communication_stream(Device device) {
  return reinterpret_cast<StreamHandle>(cuda::communication_stream(device));
}

}  // namespace flexep::python
