// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>
#include <vector>

namespace flexep::tool {

/// @throws NotAvailable in a binary that was built without MPI.
void require_mpi();

/// The command that runs `program` as `num_ranks` ranks of MPI on this machine, whatever job this process
/// itself is in. @throws as require_mpi().
std::vector<std::string> mpi_command(int num_ranks, const std::vector<std::string>& program);

/// Whether mpirun, or another launcher of MPI, started this process, and nobody made it a rank of another job
/// since.
bool is_mpi_rank();

/// In a process that mpirun started: RANK, WORLD_SIZE and their local kin become what MPI says, so that the
/// processes of one machine, which share memory, are flexep's ranks and have MPI's numbers. Elsewhere
/// nothing. Call it before there are threads.
void adopt_mpi_ranks();

}  // namespace flexep::tool
