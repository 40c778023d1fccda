// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "transport/shared_memory/fabric.h"

namespace flexep {

/// The processes of one job on one machine that find each other under one name.
struct ShmJob {
  std::string id;  ///< equal for the processes of a job, different for jobs of the same user that run at the
                   ///< same time
  int rank = 0;
  int num_ranks = 1;
  std::string_view transport_name = "shm";  ///< of the groups, for those who ask; a literal
};

/// Connects every pair of processes of the job. Memory is passed over these connections (memfd), and a
/// connection that breaks tells that a process has ended. Nothing is left in the file system, whatever
/// happens.
/// @param timeout  how long to wait for the other processes, now and whenever memory is passed.
/// @throws TimeoutError that names the ranks that did not come, TransportError.
std::shared_ptr<Fabric> open_shm_fabric(const ShmJob& job, std::chrono::milliseconds timeout);

}  // namespace flexep
