// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "transport/messages.h"
#include "transport/mpi/mpi_world.h"

namespace flexep {

/// Messages of a group, as MPI carries them: non-blocking ones, on two tags of the group's own.
class MpiMessages final : public Messages {
 public:
  /// @param world_ranks  the group's ranks, as the world numbers them.
  MpiMessages(std::shared_ptr<MpiWorld> world, std::uint64_t name, std::vector<int> world_ranks);
  ~MpiMessages() override { MpiMessages::leave(); }

  Ticket send(int rank, std::span<const std::byte> bytes) override;
  Ticket receive(int rank, std::span<std::byte> bytes) override;
  bool is_complete(Ticket ticket) override;
  void cancel() override;

  void give_up(const GroupFailure& failure) override;
  std::optional<GroupFailure> failure() override;
  std::optional<std::string> cause_of_loss(int rank) override;
  void leave() override;

  std::uint64_t draw_group_name() override { return world_->draw_group_name(); }
  std::shared_ptr<Messages> subgroup(std::span<const int> ranks, std::uint64_t name) override;

 private:
  /// A message under way, in pieces that MPI can count.
  struct Message {
    int rank;
    std::vector<std::unique_ptr<MpiRequest>> pieces;  ///< in order; those that are complete are gone
  };

  template <typename Bytes, typename Post>
  Ticket post(int rank, Bytes bytes, Post post_piece);
  [[noreturn]] void throw_failed(int rank, const std::string& reason);
  void require_usable() const;
  int world_rank(int rank) const { return world_ranks_[static_cast<std::size_t>(rank)]; }

  const std::shared_ptr<MpiWorld> world_;
  const std::uint64_t name_;
  const std::vector<int> world_ranks_;
  Ticket last_ticket_ = 0;
  std::map<Ticket, Message> messages_;
  std::map<int, std::string> losses_;
  std::optional<GroupFailure> failure_;
  std::atomic_flag has_given_up_;
};

}  // namespace flexep
