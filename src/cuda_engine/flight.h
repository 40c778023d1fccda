// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "backend/cuda/result_slots.h"
#include "backend/cuda/stream_moment.h"
#include "cuda_engine/captured_reports.h"
#include "cuda_engine/verdict_errors.h"

namespace flexep::cuda {

/// One launched operation, until its kernel has completed and its result has been read. Its moment is the end
/// of the kernel; whoever waits for it hears the operation's error. Of a captured operation it is a moment of
/// the graph, which keeps the flight, and the flight all that its replays need.
class Flight final : public StreamMoment {
 public:
  /// @param stream  on which the kernel has just been launched.
  Flight(const OperationName& operation, OperationResult* result, const ResultLayout& layout,
         cudaStream_t stream)
      : StreamMoment(stream), operation_(operation), result_(result), layout_(layout) {}

  void wait() const override {
    StreamMoment::wait();
    land();
    const std::lock_guard lock(mutex_);
    is_heard_ = true;
    if (error_) std::rethrow_exception(error_);
  }

  OperationResult& result() const { return *result_; }
  const ResultLayout& layout() const { return layout_; }
  const OperationName& operation() const { return operation_; }

  /// Keeps memory that the kernel uses until it has completed.
  void keep(std::shared_ptr<const void> memory) { kept_.push_back(std::move(memory)); }
  /// Called once when the operation has gone well, with the result.
  void when_done(std::function<void(const Flight&)> action) { action_ = std::move(action); }
  /// The caller has thrown the operation's error, or has nothing to hear.
  void mark_heard() {
    const std::lock_guard lock(mutex_);
    is_heard_ = true;
  }

  /// Reads the result of a kernel that has completed. Idempotent.
  void land() const;
  /// After land(): what went wrong, unless somebody has heard it.
  std::exception_ptr unheard_error() const {
    const std::lock_guard lock(mutex_);
    return is_heard_ ? nullptr : error_;
  }

 private:
  OperationName operation_;
  OperationResult* result_;
  ResultLayout layout_;
  mutable std::mutex mutex_;
  mutable bool has_landed_ = false;
  mutable bool is_heard_ = false;
  mutable std::exception_ptr error_;
  mutable std::vector<std::shared_ptr<const void>> kept_;
  mutable std::function<void(const Flight&)> action_;
};

/// The operations of one buffer that have not been seen to complete, in the order of their launch. One user
/// at a time.
class Flights {
 public:
  explicit Flights(ResultSlots& slots) : slots_(slots), captured_(slots.take(), slots.take()) {}

  /// A zeroed result for a launch. Waits for the oldest operation when all results are out.
  OperationResult* take_result();
  void give_back(OperationResult* result) { slots_.give_back(result); }
  void add(std::shared_ptr<Flight> flight) { flights_.push_back(std::move(flight)); }
  /// Where an operation that is captured reports, at each replay.
  Reports reports_of_captured(const OperationName& operation, const ResultLayout& layout) {
    return captured_.reports_of(operation, layout);
  }
  /// Reads the results of what has completed. @return the first error that nobody has heard.
  std::exception_ptr collect();
  /// Waits until all has completed, then as collect.
  std::exception_ptr drain();

 private:
  std::exception_ptr land_oldest();

  ResultSlots& slots_;
  CapturedReports captured_;
  std::deque<std::shared_ptr<Flight>> flights_;
  std::exception_ptr unheard_;  ///< of what had to be waited for
};

}  // namespace flexep::cuda
