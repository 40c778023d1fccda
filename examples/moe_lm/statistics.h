// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "flexep/communicator.h"

namespace moe_lm {

class Stopwatch {
 public:
  double seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

/// How evenly the experts are used: pairs routed to each, over some steps.
class ExpertLoad {
 public:
  /// @param tokens_per_expert  [block][expert], of one step and this rank.
  void add(const std::vector<std::vector<std::int64_t>>& tokens_per_expert);
  /// The busiest expert's pairs over the mean, of all ranks, in the block where this is largest; then starts
  /// anew. Collective.
  double take_max_over_mean(flexep::Communicator& comm);

 private:
  std::vector<std::vector<double>> num_pairs_;  ///< [block][expert]
};

/// Where a rank's time went.
struct TimeSpent {
  double training = 0;  ///< seconds in training steps, evaluation not counted
  double dispatch = 0;  ///< of these, in dispatch
  double combine = 0;   ///< of these, in combine
};

/// The mean over the ranks. Collective.
TimeSpent mean_over_ranks(flexep::Communicator& comm, const TimeSpent& mine);

}  // namespace moe_lm
