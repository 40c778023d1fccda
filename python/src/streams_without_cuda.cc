// SPDX-License-Identifier: Apache-2.0
#include "flexep/error.h"
#include "streams.h"

namespace flexep::python {
namespace {

[[noreturn]] void refuse() {
  throw InvalidArgument("stream", "this build of flexep has no CUDA");
}

}  // namespace

bool has_cuda() {
  return false;
}

void run_on(StreamHandle, const std::function<void()>&) {
  refuse();
}

Event capture_on(StreamHandle) {
  refuse();
}

void let_wait(StreamHandle, const Event& event) {
  event.wait();
}

void let_use(StreamHandle, const Tensor&) {
  refuse();
}

void record_stream(const Tensor&, StreamHandle) {}

StreamHandle communication_stream(Device) {
  return 0;
}

}  // namespace flexep::python
