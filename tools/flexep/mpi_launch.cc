// SPDX-License-Identifier: Apache-2.0
#include "mpi_launch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>
#include <utility>

#include "errors.h"
#include "flexep/env.h"

namespace flexep::tool {
namespace {

constexpr std::string_view kLauncher = FLEXEP_MPIEXEC;

}  // namespace

void require_mpi() {
  if (kLauncher.empty()) throw NotAvailable("this binary was built without MPI");
}

std::vector<std::string> mpi_command(int num_ranks, const std::vector<std::string>& program) {
  require_mpi();
  // More ranks than cores are fine; unbound, so that a rank's threads may use any of them, as flexep's ranks
  // do.
  std::vector<std::string> command = {std::string(kLauncher), "-n",        fmt::format("{}", num_ranks),
                                      "--oversubscribe",      "--bind-to", "none"};
  if (geteuid() == 0) command.push_back("--allow-run-as-root");
  command.push_back("env");
  for (const char* name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"})
    command.insert(command.end(), {"-u", name});
  command.insert(command.end(), program.begin(), program.end());
  return command;
}

bool is_mpi_rank() {
  const Environment environment = Environment::read();
  return environment.mpi_num_ranks && !environment.rank;
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
