// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace flexep {

/// Why a rank has given its group up, as it tells the others.
struct GroupFailure {
  int rank = 0;  ///< which has given up
  std::string reason;
  std::vector<int> culprits;  ///< ranks that are to blame
  bool is_timeout = false;
};

/// Messages between the ranks of one group, those of one's own domain among them. Two messages from one rank
/// to another arrive in the order in which they were sent, and meet receives in the order of these.
///
/// Nothing here waits: who needs a message asks for it again and again (Transport::settle), and what is asked
/// for moves on meanwhile. Nothing is buffered either: a send may need its receive to complete, so a rank
/// that sends keeps asking for what it receives. Used by one thread at a time, that of the group, give_up()
/// excepted.
class Messages {
 public:
  /// A message on its way. Its bytes stay where they are, and untouched, until it is complete or cancelled.
  using Ticket = std::uint64_t;

  virtual ~Messages() = default;

  /// @throws TransportError when the network refuses.
  virtual Ticket send(int rank, std::span<const std::byte> bytes) = 0;
  /// Of exactly that many bytes. @throws as send.
  virtual Ticket receive(int rank, std::span<std::byte> bytes) = 0;
  /// Whether the message is complete; once it is, its ticket means nothing any more.
  /// @throws TransportError when it never will be; CollectiveMismatch for a message of another length.
  virtual bool is_complete(Ticket ticket) = 0;
  /// Ends all messages of this rank that are under way: nobody touches their bytes afterwards, and no ticket
  /// means anything any more. The group cannot be used for messages after that.
  virtual void cancel() = 0;

  /// Tells the other ranks, as well as that is possible, that this one goes on no more. From any thread; the
  /// first failure of a rank counts.
  virtual void give_up(const GroupFailure& failure) = 0;
  /// What another rank has told by give_up(). Takes microseconds.
  virtual std::optional<GroupFailure> failure() = 0;
  /// Why a rank will never be heard of again, if that is known.
  virtual std::optional<std::string> cause_of_loss(int rank) = 0;
  /// Ends this rank's part in the group. Idempotent; destruction does it too.
  virtual void leave() = 0;

  /// A name for a group in which this rank comes first: none of its members is in another of that name.
  virtual std::uint64_t draw_group_name() = 0;
  /// Messages among `ranks` of these, which pass the same arguments: numbered in that order, and meeting no
  /// others. Collective over them. @param name  drawn by the first of them.
  /// @throws TransportError.
  virtual std::shared_ptr<Messages> subgroup(std::span<const int> ranks, std::uint64_t name) = 0;
};

}  // namespace flexep
