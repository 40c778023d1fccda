// SPDX-License-Identifier: Apache-2.0
#include "bench/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <ctime>
#include <limits>

namespace flexep::tool {
namespace {

/// When this rank ran something, in nanoseconds of a clock that the ranks of one machine share.
struct Span {
  std::int64_t begin_ns = 0;
  std::int64_t end_ns = 0;
  std::int64_t cpu_ns = 0;  ///< that the thread has run meanwhile
};

/// This rank's runs of one thing, by iteration.
using Samples = std::vector<Span>;

struct OperationSamples {
  Samples operation;
  Samples floor;
  Samples baseline;
};

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

template <typename Body>
Span timed(Communicator& comm, Body body) {
  comm.barrier();
  const std::int64_t begin = now_ns(), cpu_begin = thread_cpu_ns();
  body();
  return {begin, now_ns(), thread_cpu_ns() - cpu_begin};
}

bool all_ranks(Communicator& comm, bool mine) {
  const auto answers = comm.all_gather(static_cast<char>(mine));
  return std::all_of(answers.begin(), answers.end(), [](char answer) { return answer != 0; });
}

/// Runs it once on all ranks and looks at every row.
bool verify(BenchOperation& operation, Communicator& comm) {
  operation.run();
  const Finding finding = operation.check();
  operation.discard();
  if (finding) fmt::print(stderr, "flexep: rank {}: {}: {}\n", comm.rank(), operation.name(), *finding);
  return all_ranks(comm, !finding);
}

/// What a buffer has moved so far, as bytes that can be gathered.
struct Moved {
  Moved() = default;
  explicit Moved(const BufferCounters& counters) {
    OperationCounters all = counters.dispatch;
    all += counters.combine;
    bytes_read = all.bytes_read;
    bytes_written = all.bytes_written;
    link_bytes = all.link_bytes;
    staging_bytes = all.staging_bytes;
  }
  std::int64_t bytes_read = 0;
  std::int64_t bytes_written = 0;
  std::int64_t link_bytes = 0;
  std::int64_t staging_bytes = 0;
};

OperationCounters counters_of_one_run(BenchRank& rank, BenchOperation& operation) {
  const Moved before(rank.buffer.counters());
  operation.run();
  operation.discard();
  const Moved after(rank.buffer.counters());
  OperationCounters sum;
  const auto befores = rank.comm.all_gather(before);
  const auto afters = rank.comm.all_gather(after);
  for (std::size_t r = 0; r < afters.size(); ++r) {
    sum.bytes_read += afters[r].bytes_read - befores[r].bytes_read;
    sum.bytes_written += afters[r].bytes_written - befores[r].bytes_written;
    sum.link_bytes += afters[r].link_bytes - befores[r].link_bytes;
    sum.staging_bytes += afters[r].staging_bytes - befores[r].staging_bytes;
  }
  return sum;
}

void run_iteration(BenchRank& rank, BenchOperation& operation, OperationSamples& samples) {
  samples.operation.push_back(timed(rank.comm, [&] { operation.run(); }));
  operation.discard();
  if (!operation.has_floor()) return;
  samples.floor.push_back(timed(rank.comm, [&] { operation.run_floor(); }));
  if (rank.baseline) {
    samples.baseline.push_back(timed(rank.comm, [&] { operation.run_baseline(); }));
  }
}

/// For each iteration the time from the first rank's begin to the slowest one's end, and the CPU time of all:
/// where ranks share cores, a rank that gets no core is late, not fast.
Samples over_ranks(Communicator& comm, const Samples& mine) {
  Samples all(mine.size(), {.begin_ns = std::numeric_limits<std::int64_t>::max()});
  for (const auto& bytes : comm.all_gather_bytes(std::as_bytes(std::span(mine)))) {
    for (std::size_t i = 0; i < all.size(); ++i) {
      Span span;
      std::memcpy(&span, bytes.data() + i * sizeof(Span), sizeof(Span));
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

BenchResult summarise(BenchRank& rank, BenchOperation& operation, const OperationSamples& samples) {
  const int num_warmups = rank.options.num_warmups;
  BenchResult result{.op = std::string(operation.name()), .num_sms = rank.handle.num_sms()};
  result.times = *summarise(rank.comm, samples.operation, num_warmups);
  result.floor = summarise(rank.comm, samples.floor, num_warmups);
  result.baseline = summarise(rank.comm, samples.baseline, num_warmups);
  if (operation.name() != "baseline_alltoallv") result.bytes = counters_of_one_run(rank, operation);
  return result;
}

}  // namespace

std::vector<BenchResult> measure(BenchRank& rank) {
  const auto operations = make_operations(rank);
  std::vector<char> verified;
  for (const auto& operation : operations) verified.push_back(verify(*operation, rank.comm));

  std::vector<OperationSamples> samples(operations.size());
  for (int i = 0; i < rank.options.num_warmups + rank.options.num_iters; ++i) {
    for (std::size_t k = 0; k < operations.size(); ++k) run_iteration(rank, *operations[k], samples[k]);
  }

  std::vector<BenchResult> results;
  for (std::size_t k = 0; k < operations.size(); ++k) {
    results.push_back(summarise(rank, *operations[k], samples[k]));
    results.back().verified = verify(*operations[k], rank.comm) && verified[k] != 0;
  }
  return results;
}

}  // namespace flexep::tool
