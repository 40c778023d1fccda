// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <string_view>

#include "backend/cuda/capture.h"
#include "core/agreement.h"
#include "cuda_engine/device_group.h"
#include "cuda_engine/flight.h"
#include "flexep/cuda.h"

namespace flexep::cuda {

/// What dispatch and combine have in common: how they start, launch, and tell others that they cannot.
class Operation {
 public:
  Operation(DeviceGroup& group, Flights& flights, const OperationName& name)
      : group_(group), flights_(flights), name_(name), is_captured_(is_captured(current_stream())) {}

 protected:
  /// The communication stream waits for what the operation follows: `previous`, else all that the current
  /// stream has been given; and for `before_rows`, since one kernel does all. It joins a capture of the
  /// current stream.
  void follow(const Event& previous, const Event& before_rows) const;
  /// @throws InvalidArgument when the ranks of this GPU could not run together with so many.
  void check_num_sms(int num_sms) const;

  /// Runs `step`; what it throws, the other ranks hear in this operation's exchange before it is rethrown.
  /// But not while it is captured, when nobody exchanges anything.
  template <typename Step>
  void attempt(Step step) {
    try {
      step();
    } catch (const std::exception& error) {
      if (!is_captured_) refuse(error.what());
      throw;
    }
  }

  /// Calls launch(reports), which puts a kernel on the communication stream. The flight is kept until it has
  /// landed; that of a captured operation by the graph, and it never lands.
  template <typename Launch>
  std::shared_ptr<Flight> take_off(int num_local_experts, Launch launch) {
    const ResultLayout layout{.num_ranks = group_.num_ranks(), .num_local_experts = num_local_experts};
    const Reports reports = is_captured_ ? flights_.reports_of_captured(name_, layout)
                                         : Reports{.result = flights_.take_result(), .layout = layout};
    try {
      launch(reports);
      auto flight = std::make_shared<Flight>(name_, reports.result, layout, group_.stream());
      keep(flight);
      return flight;
    } catch (...) {
      if (!is_captured_) flights_.give_back(reports.result);
      throw;
    }
  }

  /// Returns when the verdict is known; rows may still be moving.
  void await_verdict(const Flight& flight) const;
  /// The current stream finds the results of the operation, unless the caller wants its event.
  Event let_follow(const std::shared_ptr<Flight>& flight, bool is_async) const;

  DeviceArena::Block reserve(std::size_t num_bytes) const {
    return group_.arena->reserve(num_bytes, group_.stream());
  }
  /// What no other rank stores to or reads from.
  DeviceArena::Block reserve_local(std::size_t num_bytes) const {
    return group_.local->reserve(num_bytes, group_.stream());
  }
  /// The tensor itself where it is dense and 16-byte aligned, else a copy that the communication stream
  /// makes.
  Tensor dense(const Tensor& tensor) const;

  DeviceGroup& group_;
  Flights& flights_;
  OperationName name_;
  const bool is_captured_;  ///< into a graph, with the current stream

 private:
  void follow_current_stream() const;
  void keep(const std::shared_ptr<Flight>& flight) const;
  void refuse(std::string_view reason);
};

/// A word of a header's fingerprint.
inline std::int64_t& word(ExchangeHeader& header, Field field) {
  static_assert(kNumFields + 1 <= ExchangeHeader::kNumFields);
  return header.fingerprint[static_cast<std::size_t>(field) + 1];
}
inline std::int64_t& kind_of(ExchangeHeader& header) {
  return header.fingerprint[0];
}

}  // namespace flexep::cuda
