// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <thread>

#include "backend/cuda/stream.h"
#include "common/deadline.h"
#include "flexep/event.h"

namespace flexep::cuda {

/// A moment that a stream can wait for.
class StreamMoment : public Event::Moment {
 public:
  explicit StreamMoment(cudaStream_t stream) : event_(std::make_shared<const StreamEvent>(stream)) {}
  void wait() const override { event_->wait(); }
  bool wait_for(std::chrono::nanoseconds longest) const override {
    const bool has_come = wait_until(
        Deadline(longest), 0, [&] { return is_done(); },
        [](std::chrono::nanoseconds nap) {
          std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(nap, std::chrono::microseconds(50)));
        });
    if (has_come) wait();
    return has_come;
  }
  bool is_done() const override { return event_->is_done(); }
  void hold_back(cudaStream_t stream) const { event_->hold_back(stream); }
  const std::shared_ptr<const StreamEvent>& point() const { return event_; }

 private:
  std::shared_ptr<const StreamEvent> event_;
};

}  // namespace flexep::cuda
