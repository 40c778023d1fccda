// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace flexep {

/// A counter in shared memory that one rank advances and one other rank waits for. All signalling between
/// ranks that share memory goes through publish() and nap(): nothing else in flexep orders one rank's loads
/// after another rank's stores.
struct alignas(64) Signal {
  std::atomic<std::uint32_t> epoch{0};
  std::atomic<std::uint32_t> sleeping{0};
};
static_assert(std::atomic<std::uint32_t>::is_always_lock_free, "signals work between processes");

/// Whether the partner has published `epoch` or a later one (epochs wrap). Acquire: pairs with the store in
/// publish().
inline bool has_arrived(const Signal& signal, std::uint32_t epoch) {
  return static_cast<std::int32_t>(signal.epoch.load(std::memory_order_acquire) - epoch) >= 0;
}

/// Advances the partner's signal to `epoch` and wakes him if he sleeps. Everything that this thread stored
/// before is visible to whoever has seen the epoch. Release: pairs with has_arrived().
void publish(Signal& signal, std::uint32_t epoch);

/// Sleeps until the signal has reached `epoch`, somebody wakes it, or `longest` has passed; may return early.
void nap(Signal& signal, std::uint32_t epoch, std::chrono::nanoseconds longest);

/// Wakes the waiter without advancing the signal, so that he looks at the state of the group.
void wake(Signal& signal);

}  // namespace flexep
