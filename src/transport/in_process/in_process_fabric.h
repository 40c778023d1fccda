// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
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
  /// What ranks that send each other messages share, by a name that they agree on; lives as long as one of
  /// them.
  struct MessageGroup;
  std::shared_ptr<MessageGroup> message_group(std::uint64_t name, std::size_t num_ranks);
  /// A name that no group has; 0 is that of all ranks.
  std::uint64_t draw_group_name() { return ++num_group_names_; }
  int num_ranks() const { return static_cast<int>(has_ended_.size()); }

  /// A rank whose thread has ended is gone from every group of this world, whatever still refers to it.
  void mark_ended(int rank) { has_ended_[static_cast<std::size_t>(rank)] = true; }
  bool has_ended(int rank) const { return has_ended_[static_cast<std::size_t>(rank)]; }

 private:
  std::vector<std::atomic<bool>> has_ended_;
  std::unique_ptr<Directory> directory_;
  std::atomic<std::uint64_t> num_group_names_ = 0;
  std::mutex message_groups_mutex_;
  std::map<std::uint64_t, std::weak_ptr<MessageGroup>> message_groups_;
};

}  // namespace flexep
