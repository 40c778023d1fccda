// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "transport/shared_memory/fabric.h"

namespace flexep {

/// Where the ranks of one process find each other's memory.
class InProcessWorld {
 public:
  explicit InProcessWorld(int num_ranks);
  ~InProcessWorld();

  /// The fabric of one rank; keeps the world alive.
  static std::shared_ptr<Fabric> fabric(const std::shared_ptr<InProcessWorld>& world, int rank);

  struct Directory;
  Directory& directory() { return *directory_; }
  int num_ranks() const { return static_cast<int>(has_ended_.size()); }

  /// A rank whose thread has ended is gone from every group of this world, whatever still refers to it.
  void mark_ended(int rank) { has_ended_[static_cast<std::size_t>(rank)] = true; }
  bool has_ended(int rank) const { return has_ended_[static_cast<std::size_t>(rank)]; }

 private:
  std::vector<std::atomic<bool>> has_ended_;
  std::unique_ptr<Directory> directory_;
};

}  // namespace flexep
