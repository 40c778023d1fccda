// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "backend/cuda/stream.h"
#include "flexep/event.h"

namespace flexep::cuda {

/// A moment that a stream can wait for.
class StreamMoment : public Event::Moment {
 public:
  explicit StreamMoment(cudaStream_t stream) : event_(stream) {}
  void wait() const override { event_.wait(); }
  bool is_done() const override { return event_.is_done(); }
  void hold_back(cudaStream_t stream) const { event_.hold_back(stream); }

 private:
  StreamEvent event_;
};

}  // namespace flexep::cuda
