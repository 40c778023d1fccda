// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/stream.h"

#include <atomic>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "backend/cuda/capture.h"
#include "backend/cuda/check_cuda.h"
#include "flexep/error.h"

namespace flexep::cuda {
namespace {

/// Events of each device that mark nothing now. Never destroyed: tensors of static lifetime come last.
class EventPool {
 public:
  static EventPool& instance() {
    static auto* const pool = new EventPool;
    return *pool;
  }

  /// An event of the current device.
  std::shared_ptr<CUevent_st> take() {
    int device = 0;
    check(cudaGetDevice(&device), "name the current device");
    return {take(device), [this, device](cudaEvent_t event) {
              const std::lock_guard lock(mutex_);
              idle_[device].push_back(event);
            }};
  }

 private:
  cudaEvent_t take(int device) {
    {
      const std::lock_guard lock(mutex_);
      if (auto& idle = idle_[device]; !idle.empty()) {
        const cudaEvent_t event = idle.back();
        idle.pop_back();
        return event;
      }
    }
    cudaEvent_t event = nullptr;
    check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "make an event");
    return event;
  }

  std::mutex mutex_;
  std::map<int, std::vector<cudaEvent_t>> idle_;
};

std::weak_ptr<CUstream_st>& stream_of_this_thread() {
  thread_local std::map<int, std::weak_ptr<CUstream_st>> streams;
  int device = 0;
  check(cudaGetDevice(&device), "name the current device");
  return streams[device];
}

// Handles are used again, and the per-thread default stream has the same one in each thread. Not for a stream
// that is captured.
unsigned long long id_of(cudaStream_t stream) {
  unsigned long long id = 0;
  check(cudaStreamGetId(stream, &id), "tell a stream from others");
  return id;
}

}  // namespace

DeviceGuard::DeviceGuard(int device) : device_(device) {
  check(cudaGetDevice(&previous_), "name the current device");
  if (device != previous_) check(cudaSetDevice(device), "use a device");
}

DeviceGuard::~DeviceGuard() {
  if (device_ != previous_) cudaSetDevice(previous_);
}

StreamEvent::StreamEvent(cudaStream_t stream)
    : stream_(stream), is_captured_(is_captured(stream)), event_(EventPool::instance().take()) {
  static std::atomic<std::uint64_t> num_points{0};
  if (!is_captured_) stream_id_ = id_of(stream);
  number_ = ++num_points;
  check(cudaEventRecord(event_.get(), stream), "record an event");
  // The capture refers to its events until it ends: they are recorded anew only after.
  if (is_captured_) keep_with_graph_of(stream, event_);
}

bool StreamEvent::is_done() const {
  if (is_captured_)
    throw InvalidArgument("event", "this event belongs to a graph: only a stream can wait for it");
  const RelaxedCapture relaxed;
  const cudaError_t state = cudaEventQuery(event_.get());
  if (state == cudaErrorNotReady) return false;
  check(state, "finish what was started on the device");
  return true;
}

void StreamEvent::wait() const {
  if (is_done()) return;
  const RelaxedCapture relaxed;
  check(cudaEventSynchronize(event_.get()), "finish what was started on the device");
}

void StreamEvent::hold_back(cudaStream_t stream) const {
  if (!is_captured_ && is_captured(stream)) return wait();
  if (is_on(stream)) return;
  check(cudaStreamWaitEvent(stream, event_.get()), "let a stream wait");
}

bool StreamEvent::is_on(cudaStream_t stream) const {
  return is_captured_ ? stream == stream_ : id_of(stream) == stream_id_;
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
