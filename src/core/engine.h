// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <memory>

#include "backend/backend.h"
#include "core/agreement.h"
#include "core/arena.h"
#include "core/deferred_error.h"
#include "core/operation_meter.h"
#include "core/peer_memory.h"
#include "core/registrations.h"
#include "core/requests.h"
#include "core/routes.h"
#include "core/staged_device.h"
#include "core/staging.h"
#include "routing/waves.h"
#include "flexep/elastic_buffer.h"
#include "transport/transport.h"

namespace flexep {

/// What every operation of a buffer works with: a group of its own, a device's kernels, this rank's arena and
/// the others'.
struct Engine {
  /// @param device  for whose copies the arena's memory is pinned; null = nobody's.
  Engine(const Communicator& comm, const ElasticBufferConfig& config,
         const std::shared_ptr<StagedDevice>& device = nullptr);

  int rank() const { return context.rank; }
  int num_ranks() const { return context.num_ranks; }
  const Routes& routes() const { return context.routes; }

  ElasticBufferConfig config;
  std::shared_ptr<Transport> transport;
  std::unique_ptr<Backend> backend;
  RankContext context;
  std::int64_t id = 0;  ///< equal on all ranks, different for every buffer of a job
  Agreement agreement;
  std::shared_ptr<Arena> arena;
  std::shared_ptr<Registrations> registrations;
  PeerMemory peers;
  Staging staging;
  DeferredError deferred_error;
  OperationMeter meter;

  /// @param num_max_tokens  N of the operation.
  WaveLimits wave_limits(int num_max_tokens) const {
    return {.max_staging_bytes = static_cast<std::size_t>(config.max_staging_bytes),
            .num_partners = static_cast<int>(routes().partners(1).size()),
            .num_max_tokens_per_rank = num_max_tokens};
  }
};

/// Runs what a rank does while others wait for its messages, between the last exchange before rows cross
/// domains and their arrival: what goes wrong now ends the group, whose ranks may still store into the arena.
template <typename Step>
void run_or_break_up(Engine& engine, Step step) {
  try {
    step();
  } catch (const std::exception& error) {
    engine.transport->abort(error.what());
    engine.arena->abandon();
    throw;
  }
}

inline std::int64_t total_bytes(std::int64_t num_rows, std::size_t row_bytes) {
  return num_rows * static_cast<std::int64_t>(row_bytes);
}

}  // namespace flexep
