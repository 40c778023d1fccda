// SPDX-License-Identifier: Apache-2.0
//
// How a group over shared memory breaks, and what it says then.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "flexep/error.h"
#include "transport/broken_groups.h"
#include "transport/shared_memory/channel.h"

namespace flexep {
namespace {

std::string describe(const Operation& operation) {
  return fmt::format("{} #{}", operation.name, operation.sequence_number);
}

}  // namespace

template <typename E>
void Channel::poison(const E& error) {
  note_broken_group();
  poisoned_by_ = error.what();
  throw error;
}

void Channel::abort(std::string_view reason) {
  const int name = name_of(rank_);
  give_up(reason, std::span(&name, 1), false);
}

void Channel::give_up(std::string_view reason, std::span<const int> culprits, bool is_timeout) {
  // Others may read the first failure while a second one happens, or while the user aborts from another
  // thread.
  if (has_failed_.test_and_set()) return;
  ControlBlock::Failure& failure = control_block(rank_).failure();
  failure.is_timeout = is_timeout;
  failure.num_culprits =
      static_cast<std::uint32_t>(std::min(culprits.size(), ControlBlock::Failure::kMaxCulprits));
  std::copy_n(culprits.begin(), failure.num_culprits, failure.culprits);
  const auto text = reason.substr(0, ControlBlock::Failure::kMaxReasonLength);
  *std::copy(text.begin(), text.end(), failure.reason) = '\0';
  // Whoever has been told of another rank's failure passes that on, perhaps before that rank has told all.
  const auto own = static_cast<std::uint32_t>(rank_) + 1;
  std::uint32_t first = 0;
  if (control_block(rank_).aborted_by().compare_exchange_strong(first, own, std::memory_order_acq_rel))
    first = own;
  for (Member& member : members_) {
    std::uint32_t nobody = 0;
    // Release: whoever sees the number also sees that rank's failure. Pairs with the load in
    // require_usable().
    member.control.aborted_by().compare_exchange_strong(nobody, first, std::memory_order_acq_rel);
    for (int rank = 0; rank < num_ranks(); ++rank) wake(member.control.arrival(rank));
  }
}

void Channel::require_member() const {
  if (has_left_) throw TransportError("this rank has left the group");
}

void Channel::require_usable(const Operation& operation) {
  require_member();
  if (!poisoned_by_.empty()) {
    throw TransportError(fmt::format("this group is unusable since an earlier failure: {}", poisoned_by_));
  }
  // Acquire: pairs with give_up().
  const std::uint32_t aborted_by = control_block(rank_).aborted_by().load(std::memory_order_acquire);
  if (aborted_by == 0) return;
  const int rank = static_cast<int>(aborted_by) - 1;
  const ControlBlock::Failure& failure = control_block(rank).failure();
  const std::vector<int> culprits(failure.culprits, failure.culprits + failure.num_culprits);
  const auto what = fmt::format("rank {} gave up while rank {} was in {}: {}", name_of(rank), name_of(rank_),
                                describe(operation), failure.reason);
  if (failure.is_timeout != 0) {
    poison(TimeoutError(culprits, std::string(operation.name), operation.sequence_number, what));
  }
  poison(TransportError(what, culprits));
}

std::optional<std::string> Channel::cause_of_loss(int rank) {
  Member& member = members_[static_cast<std::size_t>(rank)];
  if (auto cause = fabric_->cause_of_death(member.world_rank)) return cause;
  if (member.control.closed().load(std::memory_order_acquire) != 0) return "it left the group";
  return std::nullopt;
}

void Channel::throw_if_broken(const Operation& operation) {
  require_usable(operation);
  for (int rank = 0; rank < num_ranks(); ++rank) {
    if (has_arrived_from(rank)) continue;
    const auto cause = cause_of_loss(rank);
    // It may have arrived just before it went, or gone because of somebody else, whom it has named then.
    if (!cause || has_arrived_from(rank)) continue;
    require_usable(operation);
    const TransportError error(fmt::format("rank {} is gone ({}) while rank {} waits for it in {}",
                                           name_of(rank), *cause, name_of(rank_), describe(operation)),
                               {name_of(rank)});
    give_up(error.what(), error.failed_ranks(), false);
    poison(error);
  }
}

void Channel::throw_if_missing(const Operation& operation) {
  std::vector<int> missing;
  for (int rank = 0; rank < num_ranks(); ++rank) {
    if (!has_arrived_from(rank)) missing.push_back(name_of(rank));
  }
  if (missing.empty()) return;  // the last one has arrived just now
  const double secs = std::chrono::duration<double>(timeout_).count();
  const TimeoutError error(
      missing, std::string(operation.name), operation.sequence_number,
      fmt::format("rank {} waited {} s in {} and has not heard from rank{} {}", name_of(rank_), secs,
                  describe(operation), missing.size() == 1 ? "" : "s", fmt::join(missing, ", ")));
  give_up(error.what(), error.missing_ranks(), true);
  poison(error);
}

}  // namespace flexep
