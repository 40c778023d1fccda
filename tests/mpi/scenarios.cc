// SPDX-License-Identifier: Apache-2.0
//
// What ranks that a launcher of MPI started go through. Domains are as the environment says.
#include <algorithm>
#include <map>
#include <stdexcept>
#include <thread>
#include <vector>

#include "conformance/run_cases.h"
#include "ranks.h"

namespace flexep::testing {
namespace {

void gather_of_any_length(Communicator& comm) {
  for (const std::size_t unit : {0, 7, 400, 70'000}) {
    const auto bytes_from = [&](int rank) {
      return std::vector<std::byte>(unit * static_cast<std::size_t>(rank), std::byte(rank + 1));
    };
    const auto all = comm.all_gather_bytes(bytes_from(comm.rank()));
    require(static_cast<int>(all.size()) == comm.num_ranks(), "a gather of another size");
    for (int rank = 0; rank < comm.num_ranks(); ++rank) {
      require(all[static_cast<std::size_t>(rank)] == bytes_from(rank), "a gather of other bytes");
    }
  }
}

void sums_in_rank_order(Communicator& comm) {
  // More than one piece, and a sum that depends on its order.
  std::vector<float> values(40'000, comm.rank() == 0 ? 1e8F : 1.0F / static_cast<float>(comm.rank()));
  float expected = 1e8F;
  for (int rank = 1; rank < comm.num_ranks(); ++rank) expected += 1.0F / static_cast<float>(rank);
  comm.all_reduce_sum(values);
  const auto is_expected = [&](float value) { return value == expected; };
  require(std::ranges::all_of(values, is_expected), "a sum in another order");
}

void collectives(Communicator& comm) {
  require(comm.transport_name() == "mpi", "another transport");
  for (int round = 0; round < 50; ++round) comm.barrier();
  gather_of_any_length(comm);
  sums_in_rank_order(comm);
}

// Groups whose messages must not meet those of others.
void splits(Communicator& comm) {
  Communicator twin = comm.duplicate();
  Communicator mirror = comm.split(0, comm.rank());
  for (int round = 0; round < 5; ++round) {
    for (Communicator* group : {&twin, &comm, &mirror}) {
      const std::vector<int> ranks = group->all_gather(comm.rank() + 100 * round);
      for (int rank = 0; rank < comm.num_ranks(); ++rank)
        require(ranks[static_cast<std::size_t>(rank)] == rank + 100 * round, "a message of another group");
    }
  }
  const int half = comm.num_ranks() / 2;
  Communicator mine = twin.split(comm.rank() < half ? 1 : 2, comm.rank());
  const int first = comm.rank() < half ? 0 : half;
  require(mine.all_gather(comm.rank()).front() == first, "a half of other ranks");
  gather_of_any_length(mine);
  require(mine.rank() == comm.rank() - first, "another rank in the half");
}

// Groups are independent: two threads of a rank may use two.
void groups_of_threads(Communicator& comm) {
  require(comm.supports_async(), "MPI gives flexep's threads no leave");
  Communicator other = comm.duplicate();
  std::thread thread([&] { gather_of_any_length(other); });
  gather_of_any_length(comm);
  thread.join();
}

void conformance_cases(Communicator& comm) {
  constexpr int kNumCases = 12;
  int num_passed = 0;
  conformance::run_cases(comm, {}, {.seed = 2026, .num_cases = kNumCases},
                         [&](const conformance::CaseOutcome& outcome) {
                           require(outcome.passed, outcome.failure);
                           ++num_passed;
                         });
  require(num_passed == kNumCases, "cases that did not run");
}

}  // namespace

void require(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error(what);
}

Scenario scenario_of(const std::string& name) {
  static const std::map<std::string, Scenario> scenarios = {{"collectives", collectives},
                                                            {"splits", splits},
                                                            {"groups_of_threads", groups_of_threads},
                                                            {"conformance", conformance_cases},
                                                            {"nothing", [](Communicator&) {}}};
  return scenarios.at(name);
}

}  // namespace flexep::testing
