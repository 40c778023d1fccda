// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

#include "core/host_planned_engine.h"
#include "core/staged_device.h"
#include "core/staged_inputs.h"

namespace flexep {

/// One dispatch of a device's tensors on one rank: the host dispatches copies of them, and what it receives
/// is copied to the device.
class StagedDispatch {
 public:
  using Result = DispatchResult;

  /// @param context  the host's, but for the device.
  StagedDispatch(StagedDevice& device, HostPlannedEngine& host, const RankContext& context,
                 const DispatchArgs& args)
      : device_(device), host_(host), context_(context), args_(args), inputs_(device, host) {}

  /// Returns when the host knows all sizes, and when it has the rows unless the dispatch is asynchronous.
  void run();
  /// After run(): returns when the rows are on the device. @throws what the host's dispatch threw.
  void finish();
  const DispatchResult& result() const { return result_; }
  /// Whether somebody has to wait before the handle's counts are known.
  bool defers_counts() const { return fresh_ && !fresh_->do_cpu_sync; }

 private:
  void stage();
  void make_handle();
  void make_outputs();
  Tensor make_like(const Tensor& on_host);
  void fill_handle();
  void store(const Tensor& on_host, const Tensor& on_device);
  void store_rows(const Tensor& on_host, const Tensor& on_device, std::int64_t num_rows);
  void store_scales(std::int64_t num_rows);

  const DispatchState& planned() const { return result_.handle.state().on_host.state(); }

  StagedDevice& device_;
  HostPlannedEngine& host_;
  const RankContext& context_;
  DispatchArgs args_;  ///< as passed
  DispatchRequest request_;
  StagedInputs inputs_;
  DispatchArgs staged_;  ///< the same for the host
  DispatchResult on_host_;
  DispatchResult result_;
  std::shared_ptr<DispatchState> fresh_;  ///< what result_.handle holds, unless the dispatch is cached
};

}  // namespace flexep
