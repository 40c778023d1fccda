// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace flexep {

/// Messages between ranks of one group that share no memory. Two messages from one rank to another arrive in
/// the order in which they were sent, and meet receives in the order of these.
///
/// Nothing here waits: who needs a message asks for it again and again, within a deadline of his own, and
/// what is asked for moves on meanwhile. Nothing is buffered either: a send may need its receive to complete,
/// so a rank that sends keeps asking for what it receives. Used by one thread at a time, that of the group.
class Messages {
 public:
  /// A message on its way. Its bytes stay where they are, and untouched, until it is complete.
  using Ticket = std::uint64_t;

  virtual ~Messages() = default;

  /// @throws TransportError when `rank` is known to be gone.
  virtual Ticket send(int rank, std::span<const std::byte> bytes) = 0;
  /// Of exactly that many bytes. @throws as send.
  virtual Ticket receive(int rank, std::span<std::byte> bytes) = 0;
  /// Whether the message is complete; once it is, its ticket means nothing any more.
  /// @throws TransportError when it never will be, as far as is known; CollectiveMismatch for a message of
  /// another length.
  virtual bool is_complete(Ticket ticket) = 0;
};

}  // namespace flexep
