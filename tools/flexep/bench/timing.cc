// SPDX-License-Identifier: Apache-2.0
#include "bench/timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <fstream>
#include <functional>
#include <limits>
#include <span>
#include <string>

namespace flexep::tool {
namespace {

/// Whether all ranks look at the same clock: that of one boot of one machine.
bool share_a_clock(Communicator& comm) {
  std::string boot;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot;
  const auto all = comm.all_gather_bytes(std::as_bytes(std::span(boot)));
  return std::adjacent_find(all.begin(), all.end(), std::not_equal_to()) == all.end();
}

/// For each iteration the time from the first rank's begin to the slowest one's end, and the CPU time of all:
/// where ranks share cores, a rank that gets no core is late, not fast.
Samples over_ranks(Communicator& comm, const Samples& mine) {
  const bool is_one_clock = share_a_clock(comm);
  Samples all(mine.size(), {.begin_ns = std::numeric_limits<std::int64_t>::max()});
  for (const auto& bytes : comm.all_gather_bytes(std::as_bytes(std::span(mine)))) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      Span span;
      std::memcpy(&span, bytes.data() + i * sizeof(Span), sizeof(Span));
      if (!is_one_clock) span = {.begin_ns = 0, .end_ns = span.end_ns - span.begin_ns, .cpu_ns = span.cpu_ns};
      all[i] = {std::min(all[i].begin_ns, span.begin_ns), std::max(all[i].end_ns, span.end_ns),
                all[i].cpu_ns + span.cpu_ns};
    }
  }
  return all;
}

double median(const std::vector<double>& sorted) {
  const std::size_t middle = sorted.size() / 2;
  return sorted.size() % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

}  // namespace

std::int64_t now_ns() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::int64_t thread_cpu_ns() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

double median_of(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return median(values);
}

/// The middle time, the one that 99 of 100 keep to, and the least.
std::optional<Times> summarise(Communicator& comm, const Samples& mine, int num_warmups) {
  if (mine.empty()) return std::nullopt;
  std::vector<double> slowest, cpu;
  for (const Span& span : over_ranks(comm, mine)) {
    slowest.push_back(static_cast<double>(span.end_ns - span.begin_ns) / 1000);
    cpu.push_back(static_cast<double>(span.cpu_ns) / comm.num_ranks() / 1000);
  }
  for (std::vector<double>* times : {&slowest, &cpu}) {
    times->erase(times->begin(), times->begin() + num_warmups);
    std::sort(times->begin(), times->end());
  }
  const auto p99 = static_cast<std::size_t>(std::ceil(0.99 * static_cast<double>(slowest.size()))) - 1;
  return Times{
      .median_us = median(slowest), .p99_us = slowest[p99], .min_us = slowest.front(), .cpu_us = median(cpu)};
}

}  // namespace flexep::tool
