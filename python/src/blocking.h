// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <nanobind/nanobind.h>

#include <chrono>
#include <optional>
#include <utility>

namespace flexep::python {

namespace nb = nanobind;

/// How often a wait looks for signals. An operation that is over sooner never does.
inline constexpr std::chrono::milliseconds kSignalInterval{20};

/// What a signal handler of the program raised (KeyboardInterrupt, usually) while this thread was waiting, on
/// its way through C++.
class PendingSignal {
 public:
  PendingSignal() : outer_(std::exchange(current_, this)) {}
  ~PendingSignal() { current_ = outer_; }
  PendingSignal(const PendingSignal&) = delete;
  PendingSignal& operator=(const PendingSignal&) = delete;

  /// The call that this thread is in; nullptr on threads that are in none, as those of C++ are.
  static PendingSignal* current() { return current_; }
  /// Runs the program's signal handlers if it is time to. @return whether one of them raised. Called without
  /// the GIL.
  bool poll();
  /// Needs the GIL, as the next.
  void rethrow();
  /// Lets the program go on for a moment and raises in it then: for where nothing may be thrown.
  void raise_soon();

 private:
  using Clock = std::chrono::steady_clock;

  static thread_local PendingSignal* current_;
  PendingSignal* outer_;
  Clock::time_point next_poll_ = Clock::now() + kSignalInterval;
  std::optional<nb::python_error> raised_;
};

/// The process's flexep::InterruptionCheck.
bool is_signal_pending();

/// Runs `work` without the GIL. When a signal handler raises meanwhile, the wait ends, and what it raised
/// goes to the caller.
template <typename Work>
auto blocking(Work&& work) {
  PendingSignal signal;
  try {
    nb::gil_scoped_release release;
    return work();
  } catch (...) {
    signal.rethrow();
    throw;
  }
}

/// A T that is destroyed without the GIL, because its destructor waits for threads that may need it.
template <typename T>
class DestroyedWithoutGil {
 public:
  template <typename... Args>
  explicit DestroyedWithoutGil(Args&&... args) : value_(std::in_place, std::forward<Args>(args)...) {}
  ~DestroyedWithoutGil() { reset(); }
  DestroyedWithoutGil(DestroyedWithoutGil&&) noexcept = default;
  DestroyedWithoutGil& operator=(DestroyedWithoutGil&&) = delete;

  void reset() {
    PendingSignal signal;
    {
      nb::gil_scoped_release release;
      value_.reset();
    }
    signal.raise_soon();
  }
  explicit operator bool() const { return value_.has_value(); }
  T* operator->() { return &*value_; }
  T& operator*() { return *value_; }

 private:
  std::optional<T> value_;
};

}  // namespace flexep::python
