// SPDX-License-Identifier: Apache-2.0
#include "blocking.h"

namespace flexep::python {

thread_local PendingSignal* PendingSignal::current_ = nullptr;

bool PendingSignal::poll() {
  if (raised_) return true;
  if (Clock::now() < next_poll_) return false;
  next_poll_ = Clock::now() + kSignalInterval;
  nb::gil_scoped_acquire acquire;
  // Does nothing on other threads than Python's main one.
  if (PyErr_CheckSignals() == 0) return false;
  raised_.emplace();
  return true;
}

void PendingSignal::rethrow() {
  if (!raised_) return;
  nb::python_error raised = std::move(*raised_);
  raised_.reset();
  throw raised;
}

void PendingSignal::raise_soon() {
  if (!raised_) return;
  PyThreadState_SetAsyncExc(PyThread_get_thread_ident(), raised_->type().ptr());
  raised_.reset();
}

bool is_signal_pending() {
  PendingSignal* signal = PendingSignal::current();
  return signal != nullptr && signal->poll();
}

}  // namespace flexep::python
