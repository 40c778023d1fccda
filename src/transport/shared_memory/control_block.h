// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "transport/shared_memory/ballot.h"
#include "transport/shared_memory/signal.h"
#include "transport/transport.h"

namespace flexep {

/// The piece of shared memory through which one member of a group hears from the others and speaks to them:
///
///   header | Signal arrivals[num_ranks] | Slot slots[2] | Ballot
///
/// arrivals[s] is advanced by rank s and awaited by the owner. slots are written by the owner and read by
/// all: exchange n uses slot n % 2, which is free again once everybody has arrived at exchange n + 1, for
/// nobody arrives there before he has read n. The ballot of rank 0 is the group's, see Ballot.
class ControlBlock {
 public:
  static constexpr std::size_t kSlotCapacity = 64 << 10;

  /// Why a member gave the group up, for the others to read.
  struct Failure {
    static constexpr std::size_t kMaxReasonLength = 1023;
    static constexpr std::size_t kMaxCulprits = 16;

    std::uint32_t is_timeout;
    std::uint32_t num_culprits;
    std::int32_t culprits[kMaxCulprits];  ///< ranks of this group that are to blame
    char reason[kMaxReasonLength + 1];
  };

  struct alignas(64) Slot {
    std::uint64_t
        total_bytes;  ///< of the whole message, which takes several exchanges when it exceeds the capacity
    std::uint64_t sequence_number;
    char operation[Operation::kMaxNameLength + 1];
    std::byte bytes[kSlotCapacity];
  };

  static std::size_t num_bytes(int num_ranks);

  ControlBlock() = default;
  /// Views memory that is zero or already in use as a control block; zero is the initial state.
  ControlBlock(std::byte* memory, int num_ranks);

  /// Set by the owner when it leaves the group.
  std::atomic<std::uint32_t>& closed() { return header().closed; }
  /// 1 + the rank that gave the group up; set by that rank, who wrote `failure` in its own block before.
  std::atomic<std::uint32_t>& aborted_by() { return header().aborted_by; }
  Failure& failure() { return header().failure; }
  Signal& arrival(int rank) { return arrivals_[rank]; }
  Slot& slot(std::uint32_t epoch) { return slots_[epoch % 2]; }
  Ballot& ballot() { return ballot_; }

 private:
  struct Header {
    alignas(64) std::atomic<std::uint32_t> closed;
    alignas(64) std::atomic<std::uint32_t> aborted_by;
    Failure failure;
  };
  Header& header() { return *reinterpret_cast<Header*>(memory_); }

  std::byte* memory_ = nullptr;
  Signal* arrivals_ = nullptr;
  Slot* slots_ = nullptr;
  Ballot ballot_;
};

}  // namespace flexep
