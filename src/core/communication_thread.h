// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <mutex>
#include <thread>

#include "flexep/event.h"

namespace flexep {

/// The communication stream of a buffer on the CPU: runs tasks one after the other, in the order of
/// submission. The thread starts with the first task.
class CommunicationThread {
 public:
  /// @param is_in_place  runs each task on the submitting thread instead, to its end.
  explicit CommunicationThread(bool is_in_place) : is_in_place_(is_in_place) {}
  /// Finishes what has been submitted.
  ~CommunicationThread();

  /// @return the end of the task; carries what it throws. What the task holds has gone by then.
  Event submit(std::function<void()> work);
  /// Waits until everything submitted so far has ended, in success or failure, for at most `longest`. @return
  /// whether it has.
  bool drain_for(std::chrono::nanoseconds longest);

 private:
  struct Task {
    std::function<void()> work;
    std::promise<void> end;
  };

  void run();
  static void execute(Task task);

  const bool is_in_place_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Task> tasks_;
  bool is_busy_ = false;
  bool is_closing_ = false;
  std::thread thread_;
};

}  // namespace flexep
