// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "cuda_engine/operation.h"
#include "kernels/cuda/combine.h"

namespace flexep::cuda {

/// One combine on one rank, the mirror image of Dispatch.
class Combine final : Operation {
 public:
  Combine(DeviceGroup& group, Flights& flights, const CombineArgs& args, std::uint64_t sequence_number);

  CombineResult run();

 private:
  void resolve();
  void make_outputs();
  void offer_rows();
  void offer_sums(const Tensor& rows);
  void offer_weights();
  /// Where the other ranks can read the memory as it is, if they can.
  std::optional<HeaderAddress> offer_in_place(const Tensor& dense);
  std::shared_ptr<Flight> launch();
  void count_when_done(Flight& flight) const;

  const DispatchState& state() const { return args_.handle.state(); }

  CombineArgs args_;
  CombineRequest request_;
  CombineLaunch launch_;
  DeviceArena::Block staged_x_;
  DeviceArena::Block staged_weights_;
  std::int64_t staging_bytes_ = 0;
  std::vector<std::unique_ptr<DeviceRegistrations::Use>> registered_;
  CombineResult result_;
};

}  // namespace flexep::cuda
