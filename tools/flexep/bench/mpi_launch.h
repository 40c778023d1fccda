// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace flexep::tool {

/// The command that runs `program` as `num_ranks` ranks of MPI on this machine. @throws NotAvailable without
/// MPI.
std::vector<std::string> mpi_command(int num_ranks, const std::vector<std::string>& program);

/// In a process that mpirun started: RANK, WORLD_SIZE and their local kin become what MPI says, so that
/// flexep's ranks are MPI's. Elsewhere nothing. Call it before there are threads.
void adopt_mpi_ranks();

}  // namespace flexep::tool
