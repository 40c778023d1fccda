// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <ostream>
#include <string>
#include <vector>

#include "support/command.h"

namespace flexep::testing {

/// An MPI of this machine, and what was built for it.
struct Mpi {
  std::string name;
  std::string launcher;     ///< its mpirun
  std::string library;      ///< flexep's MPI calls
  std::string application;  ///< tests/mpi/application.cc

  bool is_open_mpi() const;
  /// The MPIs that there are: that which flexep was built with, and MPICH.
  static std::vector<Mpi> all();
};
std::ostream& operator<<(std::ostream& out, const Mpi& mpi);

/// A job of MPI: `program` on a number of ranks.
struct MpiJob {
  int num_ranks = 1;
  std::vector<std::string> program;
  std::vector<std::string> environment;  ///< "NAME=value"
  std::vector<std::string> options;      ///< for the launcher
};

/// The command that starts the job.
std::vector<std::string> command_of(const Mpi& mpi, const MpiJob& job);

/// tests/mpi/rank.cc.
std::vector<std::string> rank_program(const std::string& scenario);

}  // namespace flexep::testing
