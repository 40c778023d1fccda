// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "flexep/communicator.h"

namespace flexep::tool {

/// Times of one thing, microseconds; for each iteration from the first rank's begin to the last one's end,
/// across machines, whose clocks differ, the longest that a rank took.
struct Times {
  double median_us = 0;
  double p99_us = 0;
  double min_us = 0;
  double cpu_us = 0;  ///< median of what the ranks' calling threads were busy, per rank

  /// Of one of `num_operations` that were timed together.
  Times& operator/=(int num_operations) {
    for (double* time : {&median_us, &p99_us, &min_us, &cpu_us}) *time /= num_operations;
    return *this;
  }
};

/// When this rank ran something, in nanoseconds of its machine's clock.
struct Span {
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
  std::int64_t cpu_ns = 0;  ///< that the thread has run meanwhile
};

/// This rank's runs of one thing, by iteration.
using Samples = std::vector<Span>;

/// Now, and what the calling thread has run so far.
std::int64_t now_ns();
std::int64_t thread_cpu_ns();

template <typename Body>
Span timed(Communicator& comm, Body body) {
  comm.barrier();
  comm.barrier();  // who had to be woken in the first is awake in the second: ranks begin together
  const std::int64_t begin = now_ns(), cpu_begin = thread_cpu_ns();
  body();
  return {begin, now_ns(), thread_cpu_ns() - cpu_begin};
}

/// The middle one of at least one value.
double median_of(std::vector<double> values);

/// Over the iterations after the first num_warmups. Nothing of no samples. Collective.
std::optional<Times> summarise(Communicator& comm, const Samples& mine, int num_warmups);

}  // namespace flexep::tool
