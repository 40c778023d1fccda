// SPDX-License-Identifier: Apache-2.0
#include "mpi.h"

namespace flexep::testing {

bool Mpi::is_open_mpi() const {
  return run_command({launcher, "--version"}).out.find("Open") != std::string::npos;
}

std::vector<Mpi> Mpi::all() {
  std::vector<Mpi> all = {{.name = "BuiltWith",
                           .launcher = MPI_LAUNCHER,
                           .library = MPI_LIBRARY,
                           .application = MPI_APPLICATION}};
  const Mpi mpich{.name = "Mpich",
                  .launcher = MPICH_LAUNCHER,
                  .library = MPICH_LIBRARY,
                  .application = MPICH_APPLICATION};
  if (!mpich.launcher.empty()) all.push_back(mpich);
  return all;
}

std::ostream& operator<<(std::ostream& out, const Mpi& mpi) {
  return out << mpi.launcher;
}

std::vector<std::string> command_of(const Mpi& mpi, const MpiJob& job) {
  std::vector<std::string> command = {mpi.launcher};
  const auto append = [&](const std::vector<std::string>& words) {
    command.insert(command.end(), words.begin(), words.end());
  };
  // Continuous integration runs as root, with more ranks than cores.
  if (mpi.is_open_mpi()) append({"--allow-run-as-root", "--oversubscribe", "--bind-to", "none"});
  append(job.options);
  append({"-n", std::to_string(job.num_ranks), "env", "FLEXEP_MPI_LIBRARY=" + mpi.library});
  append(job.environment);
  append(job.program);
  return command;
}

std::vector<std::string> rank_program(const std::string& scenario) {
  return {MPI_RANK, scenario};
}

}  // namespace flexep::testing
