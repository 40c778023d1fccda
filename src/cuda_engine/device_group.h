// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <mutex>

#include "backend/cuda/device_arena.h"
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

/// What every operation of a buffer on a GPU works with: a group of its own, a communication stream, this
/// rank's arena and the others'.
struct DeviceGroup {
  /// Collective. @throws InvalidArgument, CudaError, PeerError, as Transport.
  DeviceGroup(const Communicator& comm, const ElasticBufferConfig& config);

  int rank() const { return context.rank; }
  int num_ranks() const { return context.num_ranks; }
  int device() const { return config.device.index; }
  cudaStream_t stream() const { return communication.get(); }

  /// Adds what an operation has moved to the counters. `row_bytes` are those of its rows.
  void count_dispatch(const DispatchState& handle, std::int64_t row_bytes);
  /// @param is_per_token  whether owners offered one row per token. Owners may differ: this rank's own choice
  /// counts.
  void count_combine(const DispatchState& handle, std::int64_t row_bytes, bool is_per_token,
                     std::int64_t staging_bytes);

  ElasticBufferConfig config;
  std::shared_ptr<Transport> transport;
  RankContext context;
  std::int64_t id = 0;  ///< equal on all ranks, different for every buffer of a job
  int max_sms = 1;      ///< that an operation of this rank may take
  std::shared_ptr<CUstream_st> communication;
  std::shared_ptr<PeerRanges> ranges;
  std::shared_ptr<DeviceArena> arena;
  DeviceArena::Block tables;                      ///< mailbox, state and tables: what `peers` points to
  std::shared_ptr<DeviceArena::Block> workspace;  ///< of dispatches; captured ones keep theirs
  Peers peers;
  std::unique_ptr<ResultSlots> results;

  OperationMeter meter;

 private:
  std::mutex counting_;  ///< events are waited for on any thread
  void prepare_device();
  void lay_out_tables();
};

}  // namespace flexep::cuda
