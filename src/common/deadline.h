// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <chrono>

namespace flexep {

/// A point in time by which something must have happened.
class Deadline {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Deadline(std::chrono::nanoseconds from_now) : end_(Clock::now() + from_now) {}
  std::chrono::nanoseconds remaining() const {
    return std::max(std::chrono::nanoseconds(end_ - Clock::now()), std::chrono::nanoseconds(0));
  }
  bool passed() const { return Clock::now() >= end_; }

 private:
  Clock::time_point end_;
};

/// Tells the processor that this is a spin loop.
inline void spin_pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

/// The longest nap of wait_until: how soon a waiter notices that a peer has died.
inline constexpr std::chrono::milliseconds kWaitSlice{20};

/// The only waiting loop of flexep: looks `num_spins` times at `done`, then naps in slices until it holds or the deadline has passed.
/// @param nap  called with the longest time to sleep; may return early, and may throw when waiting has become pointless.
/// @return whether `done` held.
template <typename Done, typename Nap>
bool wait_until(const Deadline& deadline, int num_spins, Done done, Nap nap) {
  for (int i = 0; i < num_spins; ++i) {
    if (done()) return true;
    spin_pause();
  }
  while (!done()) {
    if (deadline.passed()) return false;
    nap(std::min<std::chrono::nanoseconds>(kWaitSlice, deadline.remaining()));
  }
  return true;
}

}  // namespace flexep
