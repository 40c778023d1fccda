// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <utility>

namespace flexep {

/// A moment that work can wait for: the end of an asynchronous operation, or whatever a program promises.
/// Cheap to copy; safe to use from several threads. On the CPU a "stream" is a thread: the caller's, or the
/// communication thread of a buffer. On a GPU it is a CUDA stream, which can wait for an event where the host
/// need not (flexep/cuda.h).
class Event {
 public:
  /// What an event stands for. Safe to use from several threads.
  class Moment {
   public:
    virtual ~Moment() = default;
    virtual void wait() const = 0;
    virtual bool wait_for(std::chrono::nanoseconds longest) const = 0;
    virtual bool is_done() const = 0;
  };

  /// No event: nothing to wait for, and waiting for it is an error.
  Event() = default;
  /// The moment at which the promise behind `moment` is kept. An error in it is the error of whoever waits.
  explicit Event(std::shared_future<void> moment);
  explicit Event(std::shared_ptr<const Moment> moment) : moment_(std::move(moment)) {}

  explicit operator bool() const { return moment_ != nullptr; }
  /// Blocks until the moment has come. @throws what the operation behind it threw; InvalidArgument when there
  /// is no event.
  void wait() const;
  /// The same, for at most `longest`. @return whether the moment has come.
  bool wait_for(std::chrono::nanoseconds longest) const;
  /// Whether the moment has come, in success or failure.
  bool is_done() const;

  /// Null when there is no event.
  const std::shared_ptr<const Moment>& moment() const { return moment_; }

 private:
  std::shared_ptr<const Moment> moment_;
};

}  // namespace flexep
