// SPDX-License-Identifier: Apache-2.0
//
// How a group over shared memory breaks, and what it says then.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include "flexep/error.h"
#include "transport/shared_memory/channel.h"

namespace flexep {
namespace {

std::string describe(const Operation& operation) {
  return fmt::format("{} #{}", operation.name, operation.sequence_number);
}

}  // namespace

template <typename E>
void Channel::poison(const E& error) {
  poisoned_by_ = error.what();
  throw error;
}

void Channel::require_usable() {
  if (!poisoned_by_.empty()) {
    throw TransportError(fmt::format("this group is unusable since an earlier failure: {}", poisoned_by_));
  }
  // Acquire: pairs with abort(), so that the reason is there.
  const std::uint32_t aborted_by = control_block(rank_).aborted_by().load(std::memory_order_acquire);
  if (aborted_by == 0) return;
  const int rank = static_cast<int>(aborted_by) - 1;
  poison(TransportError(
      fmt::format("rank {} aborted the group: {}", rank, control_block(rank).abort_reason().data()), {rank}));
}

void Channel::throw_if_broken(const Operation& operation) {
  require_usable();
  for (int rank = 0; rank < num_ranks(); ++rank) {
    if (has_arrived_from(rank)) continue;
    Member& member = members_[static_cast<std::size_t>(rank)];
    auto cause = fabric_->cause_of_death(member.world_rank);
    if (!cause && member.control.closed().load(std::memory_order_acquire) != 0) cause = "it left the group";
    // It may have arrived just before it went.
    if (!cause || has_arrived_from(rank)) continue;
    poison(TransportError(fmt::format("rank {} is gone ({}) while rank {} waits for it in {}", rank, *cause,
                                      rank_, describe(operation)),
                          {rank}));
  }
}

void Channel::throw_timeout(const Operation& operation) {
  std::vector<int> missing;
  for (int rank = 0; rank < num_ranks(); ++rank) {
    if (!has_arrived_from(rank)) missing.push_back(rank);
  }
  const double secs = std::chrono::duration<double>(timeout_).count();
  poison(TimeoutError(
      missing, std::string(operation.name), operation.sequence_number,
      fmt::format("rank {} waited {} s in {} and has not heard from rank{} {}", rank_, secs,
                  describe(operation), missing.size() == 1 ? "" : "s", fmt::join(missing, ", "))));
}

}  // namespace flexep
