// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <memory>
#include <vector>

#include "transport/transport.h"

namespace flexep {

class InProcessWorld;
class MpiWorld;
struct ShmJob;

/// The registry: every way to get a group of ranks. A new transport adds its function here.

/// Every rank of a group of threads, made by one thread and handed one to each. Domains are only played:
/// ranks of different ones send each other messages, as they do between machines.
std::vector<std::shared_ptr<Transport>> open_in_process_group(const std::shared_ptr<InProcessWorld>& world,
                                                              const Topology& topology,
                                                              std::chrono::milliseconds timeout);

/// This process's rank of a group of processes of one machine. Collective over the job's processes.
std::shared_ptr<Transport> open_shm_group(const ShmJob& job, std::chrono::milliseconds timeout);

/// This process's rank of the group of all ranks of a communicator of MPI: a machine is a domain, unless
/// domains of another size are asked for (0 = not). Where there is one domain, it is a group as that of
/// processes of one machine. Collective; blocks in MPI.
/// @throws InvalidArgument on all ranks for domains of different sizes, and machines whose ranks are not
/// consecutive; CollectiveMismatch, TimeoutError, TransportError.
std::shared_ptr<Transport> open_mpi_group(const std::shared_ptr<MpiWorld>& world, int requested_scaleup_size,
                                          std::chrono::milliseconds timeout);

}  // namespace flexep
