// SPDX-License-Identifier: Apache-2.0
//
// mpi_application <scenario> <thread level>: a program that has initialised MPI and hands flexep a
// communicator.
#include <flexep/mpi.h>
#include <mpi.h>

#include <exception>
#include <iostream>
#include <map>
#include <string>
#include <thread>

#include "flexep/error.h"
#include "ranks.h"

namespace {

using flexep::testing::require;

int thread_level(const std::string& name) {
  static const std::map<std::string, int> levels = {{"funneled", MPI_THREAD_FUNNELED},
                                                    {"serialized", MPI_THREAD_SERIALIZED},
                                                    {"multiple", MPI_THREAD_MULTIPLE}};
  return levels.at(name);
}

// The program's ranks in reverse, so that they are not those of MPI_COMM_WORLD.
MPI_Comm reversed_world() {
  int rank = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm reversed = MPI_COMM_NULL;
  MPI_Comm_split(MPI_COMM_WORLD, 0, -rank, &reversed);
  return reversed;
}

void run(const std::string& scenario, int level) {
  MPI_Comm comm = reversed_world();
  int rank = 0;
  MPI_Comm_rank(comm, &rank);
  {
    auto group = flexep::from_mpi(comm, {.timeout = std::chrono::seconds(60)});
    require(group.rank() == rank, "the group has another order than the communicator");
    require(group.supports_async() == (level == MPI_THREAD_MULTIPLE), "another thread level");
    // The program's own messages go on beside flexep's, and meet none of them.
    int sum = 0;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Iallreduce(&rank, &sum, 1, MPI_INT, MPI_SUM, comm, &request);
    if (level == MPI_THREAD_SERIALIZED) {
      // Any thread may call MPI, one at a time.
      std::thread([&] { flexep::testing::scenario_of(scenario)(group); }).join();
    } else {
      flexep::testing::scenario_of(scenario)(group);
    }
    MPI_Wait(&request, MPI_STATUS_IGNORE);
    require(sum == group.num_ranks() * (group.num_ranks() - 1) / 2, "the program's own sum is wrong");
  }
  MPI_Comm_free(&comm);
}

}  // namespace

int main(int argc, char** argv) {
  const int level = thread_level(argc > 2 ? argv[2] : "multiple");
  int granted = MPI_THREAD_SINGLE;
  MPI_Init_thread(&argc, &argv, level, &granted);
  try {
    require(granted == level, "MPI has granted another thread level");
    run(argv[1], level);
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
    MPI_Abort(MPI_COMM_WORLD, 1);
  }
  MPI_Finalize();
  return 0;
}
