// SPDX-License-Identifier: Apache-2.0
#include "core/communication_thread.h"

#include <exception>
#include <utility>

namespace flexep {

CommunicationThread::~CommunicationThread() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    is_closing_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

Event CommunicationThread::submit(std::function<void()> work) {
  Task task{.work = std::move(work), .end = {}};
  Event end(task.end.get_future().share());
  if (is_in_place_) {
    execute(std::move(task));
    return end;
  }
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_all();
  return end;
}

bool CommunicationThread::drain_for(std::chrono::nanoseconds longest) {
  std::unique_lock lock(mutex_);
  return changed_.wait_for(lock, longest, [&] { return tasks_.empty() && !is_busy_; });
}

void CommunicationThread::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !tasks_.empty() || is_closing_; });
    if (tasks_.empty()) return;
    Task task = std::move(tasks_.front());
    tasks_.pop_front();
    is_busy_ = true;
    lock.unlock();
    execute(std::move(task));
    lock.lock();
    is_busy_ = false;
    changed_.notify_all();
  }
}

// The work goes before the end is announced: an event that somebody keeps must not keep an operation's
// memory.
void CommunicationThread::execute(Task task) {
  std::exception_ptr error;
  try {
    task.work();
  } catch (...) {
    error = std::current_exception();
  }
  task.work = nullptr;
  if (error) {
    task.end.set_exception(error);
  } else {
    task.end.set_value();
  }
}

}  // namespace flexep
