// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <type_traits>
#include <vector>

namespace flexep {

/// A fixed number of threads that share loops; the thread that calls is one of them. Between loops the others
/// spin for some microseconds, then sleep. A pool of one thread has no others and costs nothing.
///
/// Used by one thread at a time; a body does not call its own pool.
class ThreadPool {
 public:
  /// @throws TransportError when the operating system refuses a thread.
  explicit ThreadPool(int num_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls body(begin, end) for pieces of [0, num_items) of at most `grain` items, each once, on whichever
  /// thread is free; returns when all are done, and what they wrote is visible to the caller. A body that
  /// throws ends the program.
  template <typename Body>
  requires std::is_invocable_v<Body&, std::int64_t, std::int64_t>
  void parallel_for(std::int64_t num_items, std::int64_t grain, Body&& body) {
    if (num_items <= 0) return;
    void* erased = const_cast<void*>(static_cast<const void*>(std::addressof(body)));
    if (workers_.empty() || num_items <= grain) return call<Body>(erased, 0, num_items);
    run({.call = call<Body>, .body = erased, .num_items = num_items, .grain = grain});
  }

 private:
  /// A loop, its body's type erased.
  struct Loop {
    void (*call)(void* body, std::int64_t begin, std::int64_t end) noexcept = nullptr;
    void* body = nullptr;
    std::int64_t num_items = 0;
    std::int64_t grain = 1;
  };

  template <typename Body>
  static void call(void* body, std::int64_t begin, std::int64_t end) noexcept {
    (*static_cast<std::remove_reference_t<Body>*>(body))(begin, end);
  }

  void run(const Loop& loop);
  void work();
  void take_pieces();
  void stop();

  Loop loop_;                                  ///< written before epoch_ moves, read after
  std::atomic<std::int64_t> next_item_{0};     ///< first item that nobody has taken
  std::atomic<std::uint32_t> epoch_{0};        ///< moves when there is a loop to share, or nothing more to do
  std::atomic<std::uint32_t> num_working_{0};  ///< workers that have not finished the current loop
  bool stopping_ = false;                      ///< written before epoch_ moves, read after
  std::vector<std::thread> workers_;
};

}  // namespace flexep
