// SPDX-License-Identifier: Apache-2.0
#include "transport/in_process/in_process_messages.h"

#include <fmt/format.h>

#include <atomic>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>
#include <numeric>

#include "flexep/error.h"

namespace flexep {
namespace {

/// One end of a message.
struct End {
  enum class State { kPosted, kComplete, kOtherLength };

  std::byte* bytes;
  std::size_t num_bytes;
  std::atomic<State> state{State::kPosted};

  End(const std::byte* begin, std::size_t size)
      : bytes(const_cast<std::byte*>(begin)), num_bytes(size) {}  // a sender's bytes are only read
};

/// From one rank to another: ends that have not met theirs, of one side at a time. Who posts the second end
/// copies.
struct Lane {
  std::mutex mutex;
  std::deque<std::shared_ptr<End>> sends;
  std::deque<std::shared_ptr<End>> receives;

  void post(const std::shared_ptr<End>& end, bool is_send) {
    const std::lock_guard lock(mutex);
    auto& others = is_send ? receives : sends;
    if (others.empty()) {
      (is_send ? sends : receives).push_back(end);
      return;
    }
    const auto other = others.front();
    others.pop_front();
    const bool fits = end->num_bytes == other->num_bytes;
    if (fits && end->num_bytes > 0)
      std::memcpy((is_send ? other : end)->bytes, (is_send ? end : other)->bytes, end->num_bytes);
    // Release: pairs with is_complete().
    for (End* each : {end.get(), other.get()})
      each->state.store(fits ? End::State::kComplete : End::State::kOtherLength, std::memory_order_release);
  }
};

}  // namespace

/// What the ranks of one group of messages share.
struct InProcessWorld::MessageGroup {
  explicit MessageGroup(std::size_t size) : num_ranks(size), lanes(size * size), has_left(size) {}

  Lane& lane(int from, int to) {
    return lanes[static_cast<std::size_t>(from) * num_ranks + static_cast<std::size_t>(to)];
  }

  std::size_t num_ranks;
  std::vector<Lane> lanes;
  std::vector<std::atomic<bool>> has_left;
  std::mutex mutex;  ///< of failure
  std::optional<GroupFailure> failure;
};

namespace {

class InProcessMessages final : public Messages {
 public:
  using Group = InProcessWorld::MessageGroup;

  InProcessMessages(std::shared_ptr<InProcessWorld> world, std::shared_ptr<Group> group, int rank,
                    std::vector<int> world_ranks)
      : world_(std::move(world)),
        group_(std::move(group)),
        rank_(rank),
        world_ranks_(std::move(world_ranks)) {}
  ~InProcessMessages() override { InProcessMessages::leave(); }

  Ticket send(int rank, std::span<const std::byte> bytes) override {
    return post(group_->lane(rank_, rank), true, bytes);
  }
  Ticket receive(int rank, std::span<std::byte> bytes) override {
    return post(group_->lane(rank, rank_), false, bytes);
  }

  bool is_complete(Ticket ticket) override {
    const auto found = ends_.find(ticket);
    switch (found->second->state.load(std::memory_order_acquire)) {
      case End::State::kPosted:
        return false;
      case End::State::kComplete:
        ends_.erase(found);
        return true;
      case End::State::kOtherLength:
        break;
    }
    const auto what = fmt::format("a message of rank {} and its partner's have different lengths", rank_);
    throw CollectiveMismatch("length", {}, what);
  }

  void cancel() override {
    const auto withdraw = [](Lane& lane, auto& own_ends) {
      const std::lock_guard lock(lane.mutex);
      own_ends.clear();
    };
    for (int rank = 0; rank < static_cast<int>(world_ranks_.size()); ++rank) {
      Lane& out = group_->lane(rank_, rank);
      Lane& in = group_->lane(rank, rank_);
      withdraw(out, out.sends);
      withdraw(in, in.receives);
    }
    ends_.clear();
  }

  void give_up(const GroupFailure& failure) override {
    const std::lock_guard lock(group_->mutex);
    if (!group_->failure) group_->failure = failure;
  }
  std::optional<GroupFailure> failure() override {
    const std::lock_guard lock(group_->mutex);
    return group_->failure;
  }

  std::optional<std::string> cause_of_loss(int rank) override {
    const auto r = static_cast<std::size_t>(rank);
    if (world_->has_ended(world_ranks_[r])) return "its thread ended";
    if (group_->has_left[r]) return "it left the group";
    return std::nullopt;
  }

  void leave() override {
    if (group_->has_left[static_cast<std::size_t>(rank_)].exchange(true)) return;
    cancel();
  }

  std::uint64_t draw_group_name() override { return world_->draw_group_name(); }
  std::shared_ptr<Messages> subgroup(std::span<const int> ranks, std::uint64_t name) override {
    std::vector<int> world_ranks;
    int new_rank = 0;
    for (const int rank : ranks) {
      if (rank == rank_) new_rank = static_cast<int>(world_ranks.size());
      world_ranks.push_back(world_ranks_[static_cast<std::size_t>(rank)]);
    }
    return std::make_shared<InProcessMessages>(world_, world_->message_group(name, ranks.size()), new_rank,
                                               std::move(world_ranks));
  }

 private:
  Ticket post(Lane& lane, bool is_send, std::span<const std::byte> bytes) {
    auto end = std::make_shared<End>(bytes.data(), bytes.size());
    ends_[++last_ticket_] = end;
    lane.post(end, is_send);
    return last_ticket_;
  }

  std::shared_ptr<InProcessWorld> world_;
  std::shared_ptr<Group> group_;
  int rank_;
  std::vector<int> world_ranks_;
  Ticket last_ticket_ = 0;
  std::map<Ticket, std::shared_ptr<End>> ends_;
};

}  // namespace

std::shared_ptr<InProcessWorld::MessageGroup> InProcessWorld::message_group(std::uint64_t name,
                                                                            std::size_t num_ranks) {
  const std::lock_guard lock(message_groups_mutex_);
  std::erase_if(message_groups_, [](const auto& entry) { return entry.second.expired(); });
  auto group = message_groups_[name].lock();
  if (!group) {
    group = std::make_shared<MessageGroup>(num_ranks);
    message_groups_[name] = group;
  }
  return group;
}

std::shared_ptr<Messages> open_in_process_messages(const std::shared_ptr<InProcessWorld>& world, int rank) {
  std::vector<int> ranks(static_cast<std::size_t>(world->num_ranks()));
  std::iota(ranks.begin(), ranks.end(), 0);
  constexpr std::uint64_t kWorldName = 0;
  return std::make_shared<InProcessMessages>(world, world->message_group(kWorldName, ranks.size()), rank,
                                             ranks);
}

}  // namespace flexep
