// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>

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
  int num_ranks() const { return num_ranks_; }

 private:
  int num_ranks_;
  std::unique_ptr<Directory> directory_;
};

}  // namespace flexep
