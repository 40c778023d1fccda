// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/flight.h"

#include <utility>

namespace flexep::cuda {

void Flight::land() const {
  const std::lock_guard lock(mutex_);
  if (std::exchange(has_landed_, true)) return;
  error_ = error_of_verdict(operation_, *result_, layout_);
  const bool went = result_->verdict == Verdict::kGo;
  if (!error_ && went) error_ = error_of_outcome(operation_, *result_, layout_.num_ranks);
  if (!error_ && went && action_) action_(*this);
  action_ = nullptr;
  kept_.clear();
}

OperationResult* Flights::take_result() {
  OperationResult* result = slots_.take();
  while (result == nullptr) {
    flights_.front()->StreamMoment::wait();
    if (auto error = land_oldest(); error && !unheard_) unheard_ = error;
    result = slots_.take();
  }
  return result;
}

std::exception_ptr Flights::land_oldest() {
  const std::shared_ptr<Flight> flight = std::move(flights_.front());
  flights_.pop_front();
  flight->land();
  slots_.give_back(&flight->result());
  return flight->unheard_error();
}

std::exception_ptr Flights::collect() {
  std::exception_ptr first = std::exchange(unheard_, nullptr);
  while (!flights_.empty() && flights_.front()->is_done()) {
    if (auto error = land_oldest(); error && !first) first = error;
  }
  if (auto error = captured_.take_failure(); error && !first) first = error;
  return first;
}

std::exception_ptr Flights::drain() {
  if (!flights_.empty()) flights_.back()->StreamMoment::wait();
  return collect();
}

}  // namespace flexep::cuda
