// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/host_planned_engine.h"
#include "core/staged_device.h"
#include "core/staged_inputs.h"

namespace flexep {

/// One combine of a device's tensors on one rank, the mirror image of StagedDispatch.
class StagedCombine {
 public:
  using Result = CombineResult;

  /// @param context  the host's, but for the device.
  StagedCombine(StagedDevice& device, HostPlannedEngine& host, const RankContext& context,
                const CombineArgs& args)
      : device_(device), host_(host), context_(context), args_(args), inputs_(device, host) {}

  /// Returns when the host has the sums, unless the combine is asynchronous.
  void run();
  /// After run(): returns when the sums are on the device. @throws what the host's combine threw.
  void finish();
  const CombineResult& result() const { return result_; }

 private:
  void stage();
  Tensor make_like(const Tensor& on_host);
  void store(const Tensor& on_host, const Tensor& on_device);

  StagedDevice& device_;
  HostPlannedEngine& host_;
  const RankContext& context_;
  CombineArgs args_;  ///< as passed
  StagedInputs inputs_;
  CombineArgs staged_;  ///< the same for the host
  CombineResult on_host_;
  CombineResult result_;
};

}  // namespace flexep
