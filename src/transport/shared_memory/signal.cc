// SPDX-License-Identifier: Apache-2.0
#include "transport/shared_memory/signal.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <ctime>

namespace flexep {
namespace {

// The shared (not the PRIVATE) futex operations: the same word may be mapped at different addresses.
void futex_wait(std::atomic<std::uint32_t>& word, std::uint32_t expected, std::chrono::nanoseconds longest) {
  const timespec timeout{.tv_sec = longest.count() / 1'000'000'000,
                         .tv_nsec = longest.count() % 1'000'000'000};
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void futex_wake(std::atomic<std::uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<std::uint32_t*>(&word), FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

}  // namespace

void publish(Signal& signal, std::uint32_t epoch) {
  // Sequentially consistent, both here and in nap(): either the waiter's second look sees the new epoch, or
  // this load sees that he sleeps.
  signal.epoch.store(epoch, std::memory_order_seq_cst);
  if (signal.sleeping.load(std::memory_order_seq_cst) != 0) futex_wake(signal.epoch);
}

void nap(Signal& signal, std::uint32_t epoch, std::chrono::nanoseconds longest) {
  signal.sleeping.store(1, std::memory_order_seq_cst);
  const std::uint32_t seen = signal.epoch.load(std::memory_order_seq_cst);
  if (static_cast<std::int32_t>(seen - epoch) < 0) futex_wait(signal.epoch, seen, longest);
  signal.sleeping.store(0, std::memory_order_relaxed);
}

void wake(Signal& signal) {
  futex_wake(signal.epoch);
}

}  // namespace flexep
