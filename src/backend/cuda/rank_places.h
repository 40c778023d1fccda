// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace flexep::cuda {

/// Tells processes apart, also those that are equal in number because they live in different containers.
using ProcessToken = std::array<std::uint32_t, 4>;
using GpuUuid = std::array<char, 16>;

/// Where a rank lives, as it tells the others. Travels as it is.
struct RankPlace {
  ProcessToken process{};
  GpuUuid gpu{};
  std::uint64_t gpu_bytes = 0;  ///< memory of the GPU

  bool is_on_gpu_of(const RankPlace& other) const { return gpu == other.gpu; }
};

/// Whether the GPU of one rank can load and store memory of another's.
enum class Reach : std::uint8_t {
  kSameGpu,
  kPeerAccess,
  kNotVisible,  ///< this process does not see the other GPU, and nobody can tell: it is tried
  kNoPeerAccess,
};

/// What every rank of a group has found out about its GPU and those of the others. Pure.
class RankPlaces {
 public:
  /// @param reach  [R, R]: of row r, as rank r has asked its driver.
  RankPlaces(std::vector<RankPlace> places, std::vector<Reach> reach);

  int num_ranks() const { return static_cast<int>(places_.size()); }
  /// @throws InvalidArgument that names the pair of ranks and says why: two whose GPUs cannot reach each
  /// other, or threads of one process beside other processes. The same on all ranks.
  void require_usable() const;

  /// All ranks are threads of one process; otherwise each is a process.
  bool are_threads() const { return num_processes() == 1; }
  int num_ranks_on_gpu_of(int rank) const;
  /// Addresses for the rank's range: twice its share of the GPU's memory, all of it for one or two ranks.
  std::size_t reserved_bytes(int rank) const;
  /// [R]: 1 where that rank is on another GPU; empty when all are on the rank's. As Peers::is_across_link.
  std::vector<std::uint8_t> across_link(int rank) const;

 private:
  const RankPlace& place(int rank) const { return places_[static_cast<std::size_t>(rank)]; }
  Reach reach(int from, int to) const {
    return reach_[static_cast<std::size_t>(from) * places_.size() + static_cast<std::size_t>(to)];
  }
  std::size_t num_processes() const;

  std::vector<RankPlace> places_;
  std::vector<Reach> reach_;
};

}  // namespace flexep::cuda
