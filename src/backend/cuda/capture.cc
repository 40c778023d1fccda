// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/capture.h"

#include <mutex>
#include <utility>
#include <vector>

#include "backend/cuda/check_cuda.h"

namespace flexep::cuda {
namespace {

/// What graphs that are gone have kept. Never destroyed: graphs of static lifetime come last.
class Released {
 public:
  static Released& instance() {
    static auto* const released = new Released;
    return *released;
  }

  void add(std::shared_ptr<const void> what) {
    const std::lock_guard lock(mutex_);
    things_.push_back(std::move(what));
  }
  std::vector<std::shared_ptr<const void>> take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(things_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<std::shared_ptr<const void>> things_;
};

using Kept = std::shared_ptr<const void>;

void CUDART_CB release(void* memory) {
  const std::unique_ptr<Kept> kept(static_cast<Kept*>(memory));
  Released::instance().add(std::move(*kept));
}

}  // namespace

bool is_captured(cudaStream_t stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &status), "tell whether a stream is captured");
  return status != cudaStreamCaptureStatusNone;
}

void keep_with_graph_of(cudaStream_t stream, std::shared_ptr<const void> what) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  unsigned long long id = 0;
  cudaGraph_t graph = nullptr;
  check(cudaStreamGetCaptureInfo(stream, &status, &id, &graph), "find the graph of a capture");
  auto kept = std::make_unique<Kept>(std::move(what));
  cudaUserObject_t object = nullptr;
  check(cudaUserObjectCreate(&object, kept.get(), release, 1, cudaUserObjectNoDestructorSync),
        "let a graph keep memory");
  kept.release();  // NOLINT: is the object's now
  check(cudaGraphRetainUserObject(graph, object, 1, cudaGraphUserObjectMove), "let a graph keep memory");
}

void release_from_gone_graphs() {
  Released::instance().take();
}

}  // namespace flexep::cuda
