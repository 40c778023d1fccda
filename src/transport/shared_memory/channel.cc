// SPDX-License-Identifier: Apache-2.0
#include "transport/shared_memory/channel.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <numeric>
#include <thread>

#include "common/check.h"
#include "common/interruption.h"
#include "flexep/error.h"
#include "transport/different_operations.h"
#include "transport/shared_memory/attempt.h"
#include "transport/shm/socket.h"

namespace flexep {
namespace {

// About 30 us: longer than ranks that run side by side are apart in a small operation. With more ranks than
// cores a spinning waiter only keeps the awaited one from running.
int choose_num_spins(int num_local_ranks) {
  const auto num_cores = static_cast<int>(std::thread::hardware_concurrency());
  return num_local_ranks <= num_cores ? 1000 : 0;
}

template <typename T>
T value_of(std::span<const std::byte> bytes) {
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

}  // namespace

Segment Channel::create_world_control_block(Fabric& fabric) {
  std::vector<int> everybody(static_cast<std::size_t>(fabric.num_ranks()));
  std::iota(everybody.begin(), everybody.end(), 0);
  return fabric.create_segment(ControlBlock::num_bytes(fabric.num_ranks()), everybody);
}

std::shared_ptr<Channel> Channel::open(std::shared_ptr<Fabric> fabric, const Segment& control,
                                       std::chrono::milliseconds timeout, const Members& range) {
  std::vector<Member> members;
  for (int rank = range.first; rank < range.first + range.num_ranks; ++rank) {
    auto memory = rank == fabric->rank() ? control.memory : fabric->map_segment(rank, control.id);
    members.push_back({rank, memory, ControlBlock(memory.get(), range.num_ranks)});
  }
  const int rank = fabric->rank() - range.first;
  return std::shared_ptr<Channel>(
      new Channel(std::move(fabric), timeout, rank, range.first_name, std::move(members)));
}

std::shared_ptr<Transport> Channel::open_world(std::shared_ptr<Fabric> fabric, const Segment& control,
                                               std::chrono::milliseconds timeout) {
  const Members everybody{.num_ranks = fabric->num_ranks()};
  return open(std::move(fabric), control, timeout, everybody);
}

Channel::Channel(std::shared_ptr<Fabric> fabric, std::chrono::milliseconds timeout, int rank, int first_name,
                 std::vector<Member> members)
    : fabric_(std::move(fabric)),
      timeout_(timeout),
      rank_(rank),
      first_name_(first_name),
      members_(std::move(members)),
      num_spins_(choose_num_spins(fabric_->num_ranks())),
      wait_ns_(members_.size()),
      owner_(getpid()),
      gathered_(members_.size()),
      assembled_(members_.size()) {}

Channel::~Channel() {
  Channel::leave();
}

void Channel::leave() {
  // A process that was forked off holds a copy of this object, but it is not the rank.
  if (getpid() != owner_ || has_left_.exchange(true)) return;
  control_block(rank_).closed().store(1, std::memory_order_release);
  for (Member& member : members_) wake(member.control.arrival(rank_));
}

// Of the caller, or the group's own count of exchanges.
Operation Channel::numbered(const Operation& requested) {
  ++num_gathers_;
  return {requested.name, requested.sequence_number == 0 ? num_gathers_ : requested.sequence_number};
}

Gathered Channel::all_gather(std::span<const std::byte> mine, const Operation& requested) {
  const Operation operation = numbered(requested);
  require_usable(operation);
  exchange(mine, 0, operation);
  require_same_operation(operation);
  return collect(mine, operation);
}

Gathered Channel::gather(std::span<const std::byte> mine, const Operation& requested) {
  const Operation operation = numbered(requested);
  require_usable(operation);
  exchange(mine, 0, operation);
  return collect(mine, operation);
}

// What the first exchange has begun.
Gathered Channel::collect(std::span<const std::byte> mine, const Operation& operation) {
  std::size_t longest = 0;
  for (Member& member : members_) {
    longest = std::max<std::size_t>(longest, member.control.slot(epoch_).total_bytes);
  }
  for (int rank = 0; rank < num_ranks(); ++rank)
    gathered_[static_cast<std::size_t>(rank)] = chunk_of(rank, 0);
  if (longest <= ControlBlock::kSlotCapacity) return gathered_;

  // Longer messages come in pieces, which every rank collects.
  for (auto& bytes : assembled_) bytes.clear();
  for (std::size_t offset = 0;;) {
    for (int rank = 0; rank < num_ranks(); ++rank) {
      const auto chunk = chunk_of(rank, offset);
      auto& bytes = assembled_[static_cast<std::size_t>(rank)];
      bytes.insert(bytes.end(), chunk.begin(), chunk.end());
    }
    offset += ControlBlock::kSlotCapacity;
    if (offset >= longest) break;
    exchange(mine, offset, operation);
  }
  std::copy(assembled_.begin(), assembled_.end(), gathered_.begin());
  return gathered_;
}

void Channel::exchange(std::span<const std::byte> mine, std::size_t offset, const Operation& operation) {
  ++epoch_;
  ControlBlock::Slot& slot = control_block(rank_).slot(epoch_);
  slot.total_bytes = mine.size();
  slot.sequence_number = operation.sequence_number;
  const auto name = operation.name.substr(0, Operation::kMaxNameLength);
  std::fill(std::copy(name.begin(), name.end(), slot.operation), std::end(slot.operation), '\0');
  const auto chunk = mine.subspan(std::min(offset, mine.size()));
  std::copy_n(chunk.begin(), std::min(chunk.size(), ControlBlock::kSlotCapacity), slot.bytes);

  // Each rank starts with the one after itself, so that nobody is everyone's first partner.
  for (int i = 1; i < num_ranks(); ++i) {
    publish(control_block((rank_ + i) % num_ranks()).arrival(rank_), epoch_);
  }
  await_all(operation);
}

void Channel::await_all(const Operation& operation) {
  std::optional<Deadline> deadline;  // where nobody has to be awaited, nobody looks at the clock
  for (int i = 1; i < num_ranks(); ++i) {
    const int rank = (rank_ + i) % num_ranks();
    if (has_arrived_from(rank)) continue;
    if (!deadline) deadline.emplace(timeout_);
    await(rank, *deadline, operation);
  }
}

void Channel::await(int rank, const Deadline& deadline, const Operation& operation) {
  const auto begin = Deadline::Clock::now();
  const bool has_arrived = wait_until(
      deadline, num_spins_, [&] { return has_arrived_from(rank); },
      [&](std::chrono::nanoseconds longest) {
        throw_if_broken(operation);
        if (is_interrupted()) abort("it was interrupted");
        nap(control_block(rank_).arrival(rank), epoch_, longest);
      });
  if (!has_arrived) throw_if_missing(operation);
  wait_ns_[static_cast<std::size_t>(rank)] +=
      std::chrono::nanoseconds(Deadline::Clock::now() - begin).count();
}

bool Channel::has_arrived_from(int rank) {
  return rank == rank_ || has_arrived(control_block(rank_).arrival(rank), epoch_);
}

std::span<const std::byte> Channel::chunk_of(int rank, std::size_t offset) {
  const ControlBlock::Slot& slot = control_block(rank).slot(epoch_);
  const std::size_t rest = slot.total_bytes - std::min<std::size_t>(offset, slot.total_bytes);
  return std::span(slot.bytes).first(std::min(rest, ControlBlock::kSlotCapacity));
}

void Channel::require_same_operation(const Operation& operation) {
  const auto name = operation.name.substr(0, Operation::kMaxNameLength);
  const bool same = std::ranges::all_of(members_, [&](Member& member) {
    const ControlBlock::Slot& slot = member.control.slot(epoch_);
    return name == slot.operation && slot.sequence_number == operation.sequence_number;
  });
  if (same) return;
  std::vector<std::string> values;
  for (Member& member : members_) {
    const ControlBlock::Slot& slot = member.control.slot(epoch_);
    values.push_back(fmt::format("{} #{}", slot.operation, slot.sequence_number));
  }
  throw_different_operations(std::move(values));
}

Segment Channel::create_segment(std::size_t num_bytes) {
  require_member();
  return fabric_->create_segment(num_bytes, world_ranks());
}

// The same memory is fit for every fabric, so that what works with threads works with processes.
Segment Channel::adopt_segment(std::byte* memory, std::size_t num_bytes) {
  require_member();
  const auto page_bytes = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  require_argument(reinterpret_cast<std::uintptr_t>(memory) % page_bytes == 0 && num_bytes > 0 &&
                       num_bytes % page_bytes == 0,
                   "memory",
                   "memory on rank {} is {} bytes at {}, but must be one or more whole pages of {} bytes",
                   name_of(rank_), num_bytes, fmt::ptr(memory), page_bytes);
  return fabric_->adopt_segment(memory, num_bytes, world_ranks());
}

Messages& Channel::messages() {
  throw TransportError("ranks that share memory send each other no messages");
}

void Channel::settle(Traffic&, const Operation&) {
  throw TransportError("ranks that share memory send each other no messages");
}

void Channel::scan_and_sum(std::span<const std::int32_t> values, std::span<std::int64_t> before,
                           std::span<std::int64_t> total, const Operation& operation) {
  std::ranges::fill(before, 0);
  std::ranges::fill(total, 0);
  const Gathered all = all_gather(std::as_bytes(values), operation);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    for (std::size_t i = 0; i < values.size(); ++i) {
      std::int32_t value;
      std::memcpy(&value, all[rank].data() + i * sizeof value, sizeof value);
      if (std::cmp_less(rank, rank_)) before[i] += value;
      total[i] += value;
    }
  }
}

void Channel::transpose(std::span<const std::int32_t> values, std::span<std::int32_t> received,
                        const Operation& operation) {
  const std::size_t num_values = received.size() / members_.size();
  const Gathered all = all_gather(std::as_bytes(values), operation);
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    const auto mine = all[rank].subspan(static_cast<std::size_t>(rank_) * num_values * sizeof(std::int32_t));
    std::memcpy(received.data() + rank * num_values, mine.data(), num_values * sizeof(std::int32_t));
  }
}

SegmentId Channel::pass_file(const FileDescriptor& file, std::size_t num_bytes) {
  return fabric_->pass_file(file, num_bytes, world_ranks());
}

FileDescriptor Channel::take_file(int rank, SegmentId id) {
  return fabric_->take_file(members_[static_cast<std::size_t>(rank)].world_rank, id);
}

std::vector<int> Channel::world_ranks() const {
  std::vector<int> ranks;
  for (const Member& member : members_) ranks.push_back(member.world_rank);
  return ranks;
}

std::shared_ptr<std::byte> Channel::map_segment(int rank, SegmentId id) {
  require_member();
  return fabric_->map_segment(members_[static_cast<std::size_t>(rank)].world_rank, id);
}

std::shared_ptr<Transport> Channel::split(int color, int key) {
  return split(color, key, 0, timeout_);
}

std::shared_ptr<Channel> Channel::split(int color, int key, int first_name,
                                        std::chrono::milliseconds timeout) {
  struct Request {
    int color;
    int key;
    int rank;
    SegmentId control;
    Attempt::Report creation;
  };
  const Operation operation{.name = "split"};
  Segment mine;
  // Sized for the whole parent: how many share the color is known only after the exchange.
  const Attempt creation([&] { mine = create_segment(ControlBlock::num_bytes(num_ranks())); });
  const Request request{color, key, rank_, mine.id, creation.report()};
  std::vector<Attempt::Report> reports;
  std::vector<Request> group;
  for (const auto bytes : all_gather(bytes_of(request), operation)) {
    const auto other = value_of<Request>(bytes);
    reports.push_back(other.creation);
    if (other.color == color) group.push_back(other);
  }
  creation.require_success(operation.name, reports);
  std::stable_sort(group.begin(), group.end(),
                   [](const Request& a, const Request& b) { return a.key < b.key; });

  std::vector<Member> members;
  int new_rank = 0;
  const Attempt mapping([&] {
    for (const Request& other : group) {
      if (other.rank == rank_) new_rank = static_cast<int>(members.size());
      auto memory = other.rank == rank_ ? mine.memory : map_segment(other.rank, other.control);
      members.push_back({members_[static_cast<std::size_t>(other.rank)].world_rank, memory,
                         ControlBlock(memory.get(), static_cast<int>(group.size()))});
    }
  });
  // Nobody may give up his control block before all have mapped it.
  reports.clear();
  for (const auto bytes : all_gather(bytes_of(mapping.report()), operation)) {
    reports.push_back(value_of<Attempt::Report>(bytes));
  }
  mapping.require_success(operation.name, reports);
  return std::shared_ptr<Channel>(new Channel(fabric_, timeout, new_rank, first_name, std::move(members)));
}

}  // namespace flexep
