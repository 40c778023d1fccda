// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "cuda_engine/operation.h"
#include "kernels/cuda/dispatch.h"

namespace flexep::cuda {

/// One dispatch on one rank, from the arguments to a kernel on the communication stream.
class Dispatch final : Operation {
 public:
  Dispatch(DeviceGroup& group, Flights& flights, const DispatchArgs& args, std::uint64_t sequence_number);

  /// @param unheard  an earlier operation's error: thrown and taken, for all to hear, if this one waits for
  /// the host anyway, else left for who does.
  DispatchResult run(std::exception_ptr& unheard);

 private:
  void resolve();
  void prepare_inputs();
  void prepare_handle();
  void bound_sizes();
  ExchangeHeader announce() const;
  std::shared_ptr<Flight> launch();
  std::shared_ptr<Flight> launch_until_it_fits();
  void make_region_large_enough(const Flight& flight);
  void make_outputs();
  void keep_outputs(Flight& flight) const;
  void count_when_done(Flight& flight) const;
  std::size_t bytes_needed(const ReceiveSize& size) const {
    return OutputLayout(request_.format, size).num_bytes();
  }

  DispatchArgs args_;
  DispatchRequest request_;
  bool waits_for_sizes_ = false;
  PlanLayout plan_layout_;
  std::shared_ptr<DispatchState> fresh_;  ///< unless the dispatch is cached
  DeviceArena::Block region_;
  DispatchResult result_;
};

}  // namespace flexep::cuda
