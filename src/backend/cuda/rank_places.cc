// SPDX-License-Identifier: Apache-2.0
#include "backend/cuda/rank_places.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "common/check.h"

namespace flexep::cuda {
namespace {

/// As tools print it.
std::string name_of(const GpuUuid& gpu) {
  std::string name = "GPU-";
  for (std::size_t i = 0; i < gpu.size(); ++i) {
    if (i == 4 || i == 6 || i == 8 || i == 10) name += '-';
    name += fmt::format("{:02x}", static_cast<unsigned char>(gpu[i]));
  }
  return name;
}

}  // namespace

RankPlaces::RankPlaces(std::vector<RankPlace> places, std::vector<Reach> reach)
    : places_(std::move(places)), reach_(std::move(reach)) {}

void RankPlaces::require_usable() const {
  require_argument(num_processes() == 1 || num_processes() == places_.size(), "device",
                   "ranks on GPUs must be threads of one process, or all be processes");
  for (int from = 0; from < num_ranks(); ++from) {
    for (int to = 0; to < num_ranks(); ++to) {
      require_argument(reach(from, to) != Reach::kNoPeerAccess, "device",
                       "rank {} ({}) cannot reach the memory of rank {} ({}): the driver has no peer access "
                       "between these GPUs (nvidia-smi topo -p2p rw says why)",
                       from, name_of(place(from).gpu), to, name_of(place(to).gpu));
    }
  }
}

std::size_t RankPlaces::num_processes() const {
  std::set<ProcessToken> processes;
  for (const RankPlace& place : places_) processes.insert(place.process);
  return processes.size();
}

int RankPlaces::num_ranks_on_gpu_of(int rank) const {
  return static_cast<int>(std::ranges::count(places_, place(rank).gpu, &RankPlace::gpu));
}

std::size_t RankPlaces::reserved_bytes(int rank) const {
  const std::size_t total = place(rank).gpu_bytes;
  return std::min(2 * (total / static_cast<std::size_t>(num_ranks_on_gpu_of(rank))), total);
}

std::vector<std::uint8_t> RankPlaces::across_link(int rank) const {
  std::vector<std::uint8_t> across;
  for (const RankPlace& other : places_) across.push_back(other.is_on_gpu_of(place(rank)) ? 0 : 1);
  return std::ranges::find(across, 1) == across.end() ? std::vector<std::uint8_t>() : across;
}

}  // namespace flexep::cuda
