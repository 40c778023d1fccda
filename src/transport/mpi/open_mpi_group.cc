// SPDX-License-Identifier: Apache-2.0
//
// How the ranks of a communicator of MPI find out which of them share memory, and become a group.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <random>
#include <set>
#include <vector>

#include "common/check.h"
#include "flexep/error.h"
#include "transport/mpi/mpi_messages.h"
#include "transport/mpi/mpi_world.h"
#include "transport/multi_domain/multi_domain.h"
#include "transport/open_transport.h"
#include "transport/shared_memory/channel.h"
#include "transport/shm/shm_fabric.h"

namespace flexep {
namespace {

/// What each rank tells all others.
struct Introduction {
  std::array<std::uint32_t, 4> random;  ///< names the memory of a domain, for the rank that comes first in it
  std::uint64_t group_name;             ///< for the rank that comes first of all
  std::int32_t first_rank_of_machine;
  std::int32_t requested_scaleup_size;
};

std::vector<Introduction> introduce(MpiWorld& world, int requested_scaleup_size) {
  MpiCommunicator& communicator = world.communicator();
  std::random_device entropy;
  const Introduction mine{.random = {entropy(), entropy(), entropy(), entropy()},
                          .group_name = world.draw_group_name(),
                          .first_rank_of_machine = communicator.first_rank_of_machine(),
                          .requested_scaleup_size = requested_scaleup_size};
  std::vector<Introduction> all(static_cast<std::size_t>(communicator.num_ranks()));
  communicator.all_gather(bytes_of(mine), std::as_writable_bytes(std::span(all)));
  return all;
}

// Runs of ranks of one machine. A machine whose ranks are not consecutive shows as several.
std::vector<int> machine_sizes(const std::vector<Introduction>& all) {
  std::vector<int> sizes;
  std::set<int> machines;
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const int machine = all[rank].first_rank_of_machine;
    if (rank == 0 || machine != all[rank - 1].first_rank_of_machine) {
      require_argument(
          machines.insert(machine).second, "ranks",
          "the ranks of a machine must be consecutive, but rank {} is on the machine of rank {} and the "
          "ranks between them are not: start the job by node (mpirun --map-by core, srun "
          "--distribution=block)",
          rank, machine);
      sizes.push_back(0);
    }
    ++sizes.back();
  }
  return sizes;
}

void require_same_request(const std::vector<Introduction>& all) {
  std::vector<std::string> values;
  for (const auto& rank : all) values.push_back(std::to_string(rank.requested_scaleup_size));
  if (std::ranges::adjacent_find(values, std::ranges::not_equal_to()) == values.end()) return;
  const auto what = fmt::format("ranks want domains of different sizes: {}", fmt::join(values, ", "));
  throw CollectiveMismatch("num_scaleup_ranks", values, what);
}

// All ranks come to the same answer, or to the same refusal.
Topology topology_of(const std::vector<Introduction>& all) {
  require_same_request(all);
  const std::vector<int> sizes = machine_sizes(all);
  const int requested = all.front().requested_scaleup_size;
  const auto is_whole = [&](int num_ranks) { return num_ranks % requested == 0; };
  if (requested == 0) {
    require_argument(std::ranges::adjacent_find(sizes, std::ranges::not_equal_to()) == sizes.end(), "ranks",
                     "every machine must have as many ranks, but they have {}: start as many on each, or set "
                     "FLEXEP_SCALEUP_SIZE to a number that divides them all",
                     fmt::join(sizes, ", "));
  } else {
    require_argument(std::ranges::all_of(sizes, is_whole), "FLEXEP_SCALEUP_SIZE",
                     "domains of {} ranks are asked for, which does not divide what the machines have: {}",
                     requested, fmt::join(sizes, ", "));
  }
  const int size = requested == 0 ? sizes.front() : requested;
  return {.num_scaleout_ranks = static_cast<int>(all.size()) / size, .num_scaleup_ranks = size};
}

ShmJob domain_job(const std::vector<Introduction>& all, const Topology& topology, int rank) {
  const int first = topology.rank_of(topology.domain_of(rank), 0);
  const auto& random = all[static_cast<std::size_t>(first)].random;
  return {.id = fmt::format("mpi{:08x}", fmt::join(random, "")),
          .rank = topology.scaleup_rank_of(rank),
          .num_ranks = topology.num_scaleup_ranks,
          .transport_name = "mpi"};
}

std::shared_ptr<Channel> open_domain(const ShmJob& job, std::chrono::milliseconds timeout, int first_name) {
  auto fabric = open_shm_fabric(job, timeout);
  const Segment control = Channel::create_world_control_block(*fabric);
  return Channel::open(std::move(fabric), control, timeout,
                       {.num_ranks = job.num_ranks, .first_name = first_name});
}

}  // namespace

std::shared_ptr<Transport> open_mpi_group(const std::shared_ptr<MpiWorld>& world, int requested_scaleup_size,
                                          std::chrono::milliseconds timeout) {
  const std::vector<Introduction> all = introduce(*world, requested_scaleup_size);
  const int rank = world->communicator().rank();
  const Topology topology = topology_of(all);
  const ShmJob job = domain_job(all, topology, rank);
  if (topology.num_scaleout_ranks == 1) return open_shm_group(job, timeout);
  const int machine = all[static_cast<std::size_t>(rank)].first_rank_of_machine;
  const auto num_local_ranks = std::ranges::count(all, machine, &Introduction::first_rank_of_machine);
  const int domain = topology.domain_of(rank);
  std::vector<int> everybody(all.size());
  std::iota(everybody.begin(), everybody.end(), 0);
  return std::make_shared<MultiDomain>(MultiDomain::Parts{
      .name = "mpi",
      .topology = topology,
      .domain = domain,
      .channel = open_domain(job, MultiDomain::channel_timeout(timeout), topology.rank_of(domain, 0)),
      .messages = std::make_shared<MpiMessages>(world, all.front().group_name, std::move(everybody)),
      .num_local_ranks = static_cast<int>(num_local_ranks),
      .can_work_in_background = world->threads() == MpiThreads::kAny,
      .timeout = timeout});
}

}  // namespace flexep
