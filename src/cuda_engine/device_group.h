// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>

#include "backend/cuda/device_arena.h"
#include "backend/cuda/device_registrations.h"
#include "backend/cuda/peer_ranges.h"
#include "backend/cuda/result_slots.h"
#include "core/operation_meter.h"
#include "core/requests.h"
#include "flexep/elastic_buffer.h"
#include "kernels/cuda/peers.h"
#include "transport/transport.h"

namespace flexep::cuda {

/// The most experts that a dispatch on a GPU may have: mailboxes have room for their counts.
inline constexpr int kMaxExperts = 8192;

/// @throws InvalidArgument when this process does not see the GPU of that number.
void require_device(int device);

/// What every operation of a buffer on a GPU works with: a group of its own, a communication stream, this
/// rank's arena and the others'.
struct DeviceGroup {
  /// Collective. @throws InvalidArgument, CudaError, PeerError, as Transport.
  DeviceGroup(const Communicator& comm, const ElasticBufferConfig& config);

  int rank() const { return context.rank; }
  int num_ranks() const { return context.num_ranks; }
  int device() const { return config.device.index; }
  cudaStream_t stream() const { return communication.get(); }

  /// For both arenas, see there.
  void note_operation(const std::shared_ptr<const StreamEvent>& point) const {
    arena->note_operation(point);
    local->note_operation(point);
  }
  void note_wait(const std::shared_ptr<const StreamEvent>& point) const {
    arena->note_wait(point);
    local->note_wait(point);
  }
  /// Adds what an operation has moved to the counters. `row_bytes` are those of its rows.
  void count_dispatch(const DispatchState& handle, std::int64_t row_bytes);
  /// @param is_per_token  [R], whether each owner offered one row per token.
  void count_combine(const DispatchState& handle, std::int64_t row_bytes,
                     std::span<const std::int32_t> is_per_token, std::int64_t staging_bytes);

  ElasticBufferConfig config;
  std::shared_ptr<Transport> transport;
  RankContext context;
  std::int64_t id = 0;  ///< equal on all ranks, different for every buffer of a job
  int max_sms = 1;      ///< that an operation of this rank may take
  std::shared_ptr<CUstream_st> communication;
  std::shared_ptr<PeerRanges> ranges;
  std::shared_ptr<DeviceArena> arena;  ///< what other ranks store to and read from
  std::shared_ptr<DeviceArena>
      local;  ///< for the rest: the same one, or where that is host memory one on the device
  std::shared_ptr<DeviceRegistrations> registrations;
  DeviceArena::Block mailbox;
  DeviceArena::Block tables;  ///< state and tables: with the mailbox what `peers` points to
  std::shared_ptr<DeviceArena::Block> workspace;  ///< of dispatches; captured ones keep theirs
  std::vector<std::uint8_t> is_across_link;       ///< [R], or empty, as `peers` has it
  Peers peers;
  std::unique_ptr<ResultSlots> results;

  OperationMeter meter;

 private:
  std::mutex counting_;  ///< events are waited for on any thread
  void prepare_device();
  void make_memory();
  std::shared_ptr<DeviceArena> make_local_arena() const;
  void lay_out_tables();
};

}  // namespace flexep::cuda
