// SPDX-License-Identifier: Apache-2.0
#include "core/communication_thread.h"

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

Event CommunicationThread::submit(std::function<void()> task) {
  std::packaged_task<void()> packaged(std::move(task));
  Event end(packaged.get_future().share());
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(packaged));
  if (!thread_.joinable()) thread_ = std::thread([this] { run(); });
  changed_.notify_all();
  return end;
}

void CommunicationThread::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return tasks_.empty() && !is_busy_; });
}

void CommunicationThread::run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return !tasks_.empty() || is_closing_; });
    if (tasks_.empty()) return;
    {
      std::packaged_task<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      is_busy_ = true;
      lock.unlock();
      task();
    }
    lock.lock();
    is_busy_ = false;
    changed_.notify_all();
  }
}

}  // namespace flexep
