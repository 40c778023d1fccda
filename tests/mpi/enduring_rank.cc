// SPDX-License-Identifier: Apache-2.0
//
// mpi_enduring_rank <folder> [<rank that is killed>...]: a rank that goes on until its group breaks, and
// leaves word in the folder: running.<rank>, verdict.<rank> with the error and the ranks that it names,
// ended.<rank> at its very end.
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "flexep/communicator.h"
#include "flexep/error.h"

namespace {

using namespace std::chrono_literals;

std::string folder;  // NOLINT: for the end of the program, when no object is left
int rank = -1;

void leave_word(const std::string& kind, const std::string& text) {
  const auto path = folder + "/" + kind + "." + std::to_string(rank);
  std::ofstream(path + ".new") << text;
  std::filesystem::rename(path + ".new", path);
}

std::string describe(const std::string& error, const std::vector<int>& ranks) {
  std::string text = error;
  for (const int each : ranks) text.append(" ").append(std::to_string(each));
  return text;
}

std::string endure(flexep::Communicator& comm, bool is_to_be_killed) {
  constexpr int kLastRound = 20;
  try {
    for (int round = 0;; ++round) {
      comm.barrier();
      std::this_thread::sleep_for(2ms);
      if (round == kLastRound) leave_word("running", "");
      if (round == kLastRound && is_to_be_killed) raise(SIGKILL);
    }
  } catch (const flexep::TimeoutError& error) {
    return describe("TimeoutError", error.missing_ranks());
  } catch (const flexep::TransportError& error) {
    return describe("TransportError", error.failed_ranks());
  }
}

}  // namespace

int main(int argc, char** argv) {
  folder = argv[1];
  const std::vector<std::string> killed(argv + 2, argv + argc);
  // MPICH's launcher tells ranks of another's end by this signal.
  std::signal(SIGUSR1, SIG_IGN);
  // Registered first, called last.
  std::atexit([] { leave_word("ended", ""); });
  auto comm = flexep::Communicator::from_environment({.timeout = 8s});
  rank = comm.rank();
  leave_word("verdict", endure(comm, std::ranges::count(killed, std::to_string(rank)) != 0));
  return 0;
}
