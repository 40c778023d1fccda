// SPDX-License-Identifier: Apache-2.0
//
// mpi_rank <scenario>: a rank that leaves MPI to flexep, and knows none itself.
#include <exception>
#include <iostream>

#include "flexep/error.h"
#include "ranks.h"

int main(int argc, char** argv) {
  using namespace std::chrono_literals;
  try {
    const auto scenario = flexep::testing::scenario_of(argc > 1 ? argv[1] : "");
    auto comm = flexep::Communicator::from_environment({.timeout = 60s});
    scenario(comm);
    return 0;
  } catch (const flexep::InvalidArgument& error) {
    std::cerr << "InvalidArgument(" << error.argument() << "): " << error.what() << std::endl;
  } catch (const std::exception& error) {
    std::cerr << error.what() << std::endl;
  }
  return 1;
}
