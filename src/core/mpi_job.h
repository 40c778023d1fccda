// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "flexep/communicator.h"
#include "flexep/env.h"

namespace flexep {

/// The group of all processes that a launcher of MPI has started, as `env` tells. Initialises MPI unless the
/// program has; then it is finalised when the program ends, if no group has broken. Collective over the
/// processes.
/// @throws InvalidArgument, TimeoutError, TransportError.
Communicator from_mpi_launcher(const CommunicatorOptions& options, const Environment& env);

/// As flexep/mpi.h declares it, which includes the header of MPI.
namespace internal {
Communicator from_mpi_handle(const void* comm, std::size_t handle_bytes, const CommunicatorOptions& options);
}  // namespace internal

}  // namespace flexep
