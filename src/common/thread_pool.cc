// SPDX-License-Identifier: Apache-2.0
#include "common/thread_pool.h"

#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "common/deadline.h"
#include "flexep/error.h"

namespace flexep {
namespace {

/// About 20 us: longer than the pause between two loops of one operation, shorter than a time slice that
/// another rank on this core could use.
constexpr int kNumSpins = 1000;

/// Returns the first value of `word` that is not `old`: looks a while, then sleeps. Acquires what the writer
/// released.
std::uint32_t await_change(const std::atomic<std::uint32_t>& word, std::uint32_t old) {
  for (int i = 0; i < kNumSpins; ++i) {
    if (const std::uint32_t value = word.load(std::memory_order_acquire); value != old) return value;
    spin_pause();
  }
  word.wait(old, std::memory_order_acquire);
  return word.load(std::memory_order_acquire);
}

}  // namespace

ThreadPool::ThreadPool(int num_threads) {
  try {
    for (int i = 1; i < num_threads; ++i) workers_.emplace_back([this] { work(); });
  } catch (const std::system_error& error) {
    stop();
    throw TransportError(fmt::format("cannot start {} communication threads: {}", num_threads, error.what()));
  }
}

ThreadPool::~ThreadPool() {
  stop();
}

void ThreadPool::run(const Loop& loop) {
  loop_ = loop;
  next_item_.store(0, std::memory_order_relaxed);
  num_working_.store(static_cast<std::uint32_t>(workers_.size()), std::memory_order_relaxed);
  epoch_.fetch_add(1, std::memory_order_release);  // pairs with await_change in work()
  epoch_.notify_all();
  take_pieces();
  std::uint32_t num_working = num_working_.load(std::memory_order_acquire);
  while (num_working > 0) num_working = await_change(num_working_, num_working);
}

void ThreadPool::work() {
  for (std::uint32_t epoch = 0;;) {
    epoch = await_change(epoch_, epoch);
    if (stopping_) return;
    take_pieces();
    // Pairs with the acquire loads of num_working_ in run().
    if (num_working_.fetch_sub(1, std::memory_order_acq_rel) == 1) num_working_.notify_one();
  }
}

void ThreadPool::take_pieces() {
  for (;;) {
    const std::int64_t begin = next_item_.fetch_add(loop_.grain, std::memory_order_relaxed);
    if (begin >= loop_.num_items) return;
    loop_.call(loop_.body, begin, std::min(begin + loop_.grain, loop_.num_items));
  }
}

void ThreadPool::stop() {
  stopping_ = true;
  epoch_.fetch_add(1, std::memory_order_release);  // pairs with await_change in work()
  epoch_.notify_all();
  for (std::thread& worker : workers_) worker.join();
  workers_.clear();
}

}  // namespace flexep
