// SPDX-License-Identifier: Apache-2.0
//
// How messages are waited for, and how a group of several domains breaks.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <thread>

#include "common/deadline.h"
#include "common/interruption.h"
#include "flexep/error.h"
#include "transport/broken_groups.h"
#include "transport/multi_domain/multi_domain.h"
#include "transport/traffic.h"

namespace flexep {
namespace {

// A message that nobody polls for may not move on.
constexpr std::chrono::nanoseconds kPollInterval = std::chrono::microseconds(50);

std::string describe(const Operation& operation) {
  return fmt::format("{} #{}", operation.name, operation.sequence_number);
}

}  // namespace

// Runs what waits for others. A failure is this rank's last word in the group.
void MultiDomain::guarded(const std::function<void()>& work) {
  try {
    work();
  } catch (const TimeoutError& error) {
    break_up({rank_, error.what(), error.missing_ranks(), true});
    throw;
  } catch (const TransportError& error) {
    break_up({rank_, error.what(), error.failed_ranks(), false});
    throw;
  } catch (const std::exception& error) {
    break_up({rank_, error.what(), {rank_}, false});
    throw;
  }
}

void MultiDomain::break_up(const GroupFailure& failure) {
  note_broken_group();
  poisoned_by_ = failure.reason;
  messages().give_up(failure);
  channel().give_up(failure.reason, failure.culprits, failure.is_timeout);
}

void MultiDomain::settle(Traffic& traffic, const Operation& operation) {
  require_usable(operation);
  guarded([&] { drive(traffic, operation); });
}

void MultiDomain::drive(Traffic& traffic, const Operation& operation) {
  try {
    guarded([&] {
      while (!traffic.is_done()) {
        if (!traffic.advance()) await_progress(traffic, operation);
      }
    });
  } catch (...) {
    messages().cancel();  // while their bytes are still there
    throw;
  }
}

void MultiDomain::await_progress(Traffic& traffic, const Operation& operation) {
  const auto begin = Deadline::Clock::now();
  const std::vector<int> awaited = traffic.awaited();
  std::optional<int> lost;
  const bool has_moved = wait_until(
      Deadline(parts_.timeout), num_spins_, [&] { return traffic.advance(); },
      [&](std::chrono::nanoseconds longest) {
        throw_if_told(operation);
        // Its last message may have come just before it went: look once more.
        if (lost) {
          const auto cause = messages().cause_of_loss(*lost);
          throw TransportError(fmt::format("rank {} is gone ({}) while rank {} waits for it in {}", *lost,
                                           cause.value_or("no cause is known"), rank_, describe(operation)),
                               {*lost});
        }
        const auto found = std::ranges::find_if(
            awaited, [&](int rank) { return messages().cause_of_loss(rank).has_value(); });
        if (found != awaited.end()) lost = *found;
        std::this_thread::sleep_for(std::min(longest, kPollInterval));
      });
  // The neighbours may miss others, and are asked so that all name the same.
  if (!has_moved) share({}, traffic.awaited(), operation);
  if (!awaited.empty()) {
    rail_wait_ns_[static_cast<std::size_t>(awaited.front())] +=
        std::chrono::nanoseconds(Deadline::Clock::now() - begin).count();
  }
}

void MultiDomain::require_usable(const Operation& operation) {
  if (!poisoned_by_.empty()) {
    throw TransportError(fmt::format("this group is unusable since an earlier failure: {}", poisoned_by_));
  }
  guarded([&] { throw_if_told(operation); });
}

void MultiDomain::throw_if_told(const Operation& operation) {
  if (is_interrupted()) abort("it was interrupted");
  channel().require_usable(operation);
  const auto failure = messages().failure();
  if (!failure) return;
  const auto what = fmt::format("rank {} gave up while rank {} was in {}: {}", failure->rank, rank_,
                                describe(operation), failure->reason);
  if (failure->is_timeout)
    throw TimeoutError(failure->culprits, std::string(operation.name), operation.sequence_number, what);
  throw TransportError(what, failure->culprits);
}

void MultiDomain::throw_missing(std::vector<int> missing, const Operation& operation) const {
  std::ranges::sort(missing);
  missing.erase(std::unique(missing.begin(), missing.end()), missing.end());
  const double secs = std::chrono::duration<double>(parts_.timeout).count();
  throw TimeoutError(
      missing, std::string(operation.name), operation.sequence_number,
      fmt::format("rank {}, or one of its domain, waited {} s in {} and has not heard from rank{} {}", rank_,
                  secs, describe(operation), missing.size() == 1 ? "" : "s", fmt::join(missing, ", ")));
}

void MultiDomain::abort(std::string_view reason) {
  messages().give_up({rank_, std::string(reason), {rank_}, false});
  channel().abort(reason);
}

void MultiDomain::leave() {
  messages().leave();
  channel().leave();
}

}  // namespace flexep
