// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <vector>

#include "core/host_planned_engine.h"
#include "core/staged_device.h"

namespace flexep {

/// The host's copies of one operation's inputs, in the arena, where the other ranks of the domain read them
/// in place. They stay until nothing is on its way to them any more, whatever becomes of the operation.
class StagedInputs {
 public:
  StagedInputs(StagedDevice& device, HostPlannedEngine& host) : device_(device), host_(host) {}
  ~StagedInputs();
  StagedInputs(const StagedInputs&) = delete;
  StagedInputs& operator=(const StagedInputs&) = delete;

  /// A dense copy of the tensor, if there is one, which is made when fetched() has come.
  Tensor fetch(const Tensor& tensor);
  /// The same, of which the first `num_rows` are copied; the others are uninitialised.
  Tensor fetch_rows(const Tensor& tensor, std::int64_t num_rows);
  /// When all copies are made that have been asked for so far.
  Event fetched() { return fetched_ = device_.fetched(); }

 private:
  StagedDevice& device_;
  HostPlannedEngine& host_;
  std::vector<Tensor> copies_;
  Event fetched_;  ///< none while copies have begun since
};

}  // namespace flexep
