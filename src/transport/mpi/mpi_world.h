// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "transport/mpi/mpi_library.h"

namespace flexep {

/// A communicator of MPI, and what all groups on it share: each has a pair of tags to itself.
class MpiWorld {
 public:
  MpiWorld(MpiLibrary& library, std::unique_ptr<MpiCommunicator> communicator);

  MpiCommunicator& communicator() { return *communicator_; }
  MpiThreads threads() const { return threads_; }

  /// A name for a group that this rank comes first in: no other group of its members has it, unless they have
  /// made thousands since.
  std::uint64_t draw_group_name();
  /// The group's tags.
  static int message_tag(std::uint64_t group_name) { return static_cast<int>(2 * group_name); }
  static int notice_tag(std::uint64_t group_name) { return static_cast<int>(2 * group_name + 1); }

  /// That a message to or from this rank has come through.
  void note_contact(int rank) { has_contact_[static_cast<std::size_t>(rank)] = true; }
  /// Whether that has ever been. A first message may make MPI ask the launcher where the rank is, and wait
  /// for the answer.
  bool has_contact(int rank) const { return has_contact_[static_cast<std::size_t>(rank)]; }

  /// Whether MPI may be called. It may not after a message that could be neither completed nor taken back:
  /// MPI would still use its bytes, which are the caller's again.
  bool is_usable() const { return is_usable_ && !library_.is_finalized(); }
  void give_up() { is_usable_ = false; }

 private:
  MpiLibrary& library_;
  const std::unique_ptr<MpiCommunicator> communicator_;
  const MpiThreads threads_;
  const std::uint64_t num_names_per_rank_;
  std::atomic<std::uint64_t> num_names_ = 0;
  std::vector<std::atomic<bool>> has_contact_;
  std::atomic<bool> is_usable_ = true;
};

}  // namespace flexep
