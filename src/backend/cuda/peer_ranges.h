// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "backend/cuda/device_range.h"
#include "backend/cuda/growth_board.h"
#include "transport/transport.h"

namespace flexep::cuda {

/// The device memory of all ranks of a group, as this rank addresses it: ranks of one process share mappings,
/// others map each growth. A rank's range stays mapped on the others as long as they need it, whatever
/// becomes of that rank.
class PeerRanges {
 public:
  /// Makes this rank's range, and reserves addresses for the others'. Collective.
  /// @throws InvalidArgument when ranks cannot reach each other's memory, CudaError.
  PeerRanges(const std::shared_ptr<Transport>& transport, int device);

  const std::shared_ptr<DeviceRange>& own() const { return own_; }
  /// [R], where the range of each rank begins.
  std::vector<std::byte*> begins() const;
  /// Ranks on this rank's GPU, itself included.
  int num_ranks_on_device() const { return num_ranks_on_device_; }

  /// Returns when all other ranks can reach all that the own range has behind it. Not collective.
  void publish();

 private:
  void map_other_processes(const std::shared_ptr<Transport>& transport, int device);

  std::shared_ptr<DeviceRange> own_;
  std::vector<std::shared_ptr<DeviceRange>> ranges_;  ///< [R]
  int num_ranks_on_device_ = 1;
  std::unique_ptr<GrowthBoard> board_;  ///< null for ranks of one process
};

}  // namespace flexep::cuda
