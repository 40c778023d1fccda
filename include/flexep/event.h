// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <future>
#include <utility>

namespace flexep {

/// A moment that work can wait for: the end of an asynchronous operation, or whatever a program promises.
/// Cheap to copy; safe to use from several threads. On the CPU a "stream" is a thread: the caller's, or the
/// communication thread of a buffer.
class Event {
 public:
  /// No event: nothing to wait for, and waiting for it is an error.
  Event() = default;
  /// The moment at which the promise behind `moment` is kept. An error in it is the error of whoever waits.
  explicit Event(std::shared_future<void> moment) : moment_(std::move(moment)) {}

  explicit operator bool() const { return moment_.valid(); }
  /// Blocks until the moment has come. @throws what the operation behind it threw; InvalidArgument when there
  /// is no event.
  void wait() const;
  /// Whether the moment has come, in success or failure.
  bool is_done() const;

 private:
  std::shared_future<void> moment_;
};

}  // namespace flexep
