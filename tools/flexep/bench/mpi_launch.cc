// SPDX-License-Identifier: Apache-2.0
#include "bench/mpi_launch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "bench/alltoallv_baseline.h"
#include "command.h"

namespace flexep::tool {

std::vector<std::string> mpi_command(int num_ranks, const std::vector<std::string>& program) {
  if (!AlltoallvBaseline::is_available()) throw NotAvailable("this binary was built without MPI");
  // More ranks than cores are fine; unbound, so that a rank's threads may use any of them, as flexep's ranks
  // do.
  std::vector<std::string> command = {FLEXEP_MPIEXEC,    "-n",        fmt::format("{}", num_ranks),
                                      "--oversubscribe", "--bind-to", "none"};
  if (geteuid() == 0) command.push_back("--allow-run-as-root");
  command.insert(command.end(), program.begin(), program.end());
  return command;
}

void adopt_mpi_ranks() {
  constexpr std::pair<const char*, const char*> kNames[] = {
      {"OMPI_COMM_WORLD_RANK", "RANK"},
      {"OMPI_COMM_WORLD_SIZE", "WORLD_SIZE"},
      {"OMPI_COMM_WORLD_LOCAL_RANK", "LOCAL_RANK"},
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "LOCAL_WORLD_SIZE"}};
  for (const auto& [theirs, ours] : kNames) {
    if (const char* value = std::getenv(theirs)) setenv(ours, value, /*overwrite=*/1);
  }
}

}  // namespace flexep::tool
