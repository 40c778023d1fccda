// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <mpi.h>

#include <cstddef>

#include "flexep/communicator.h"

/// Where flexep meets MPI: a group from a communicator that the program has. The one public header that
/// includes MPI's; a program that leaves MPI to flexep needs only Communicator::from_environment() and a
/// launcher of MPI (docs/mpi.md).
namespace flexep {

namespace internal {
/// @param comm  points to an MPI_Comm of `handle_bytes`.
Communicator from_mpi_handle(const void* comm, std::size_t handle_bytes, const CommunicatorOptions& options);
}  // namespace internal

/// The group of the ranks of `comm`, in its order: ranks of one machine share memory, machines send each
/// other messages. Ranks of a machine are consecutive, and every machine, or options.num_scaleup_ranks, has
/// as many.
///
/// Collective over `comm`; blocks in MPI. MPI has been initialised; with less than MPI_THREAD_MULTIPLE
/// supports_async() is false, and with less than MPI_THREAD_SERIALIZED only the main thread may use the
/// group. `comm` stays the program's: flexep works on a duplicate, which lives as long as the process.
/// @throws InvalidArgument (MPI not initialised, or another one than flexep's library was built for; machines
/// of
///         different sizes), CollectiveMismatch, TimeoutError, TransportError.
inline Communicator from_mpi(MPI_Comm comm, const CommunicatorOptions& options = {}) {
  return internal::from_mpi_handle(&comm, sizeof(comm), options);
}

}  // namespace flexep
