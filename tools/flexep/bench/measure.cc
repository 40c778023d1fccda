// SPDX-License-Identifier: Apache-2.0
#include "bench/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstring>

namespace flexep::tool {
namespace {

/// This rank's times of one thing.
using Samples = std::vector<double>;

struct OperationSamples {
  Samples operation;
  Samples floor;
  Samples baseline;
};

template <typename Body>
double time_us(Communicator& comm, Body body) {
  comm.barrier();
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count();
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

BufferCounters counters_of_one_run(BenchRank& rank, BenchOperation& operation) {
  const BufferCounters before = rank.buffer.counters();
  operation.run();
  operation.discard();
  const BufferCounters after = rank.buffer.counters();
  BufferCounters sum;
  for (const auto& [b, a] : rank.comm.all_gather(std::array{before, after})) {
    sum.bytes_read += a.bytes_read - b.bytes_read;
    sum.bytes_written += a.bytes_written - b.bytes_written;
    sum.link_bytes += a.link_bytes - b.link_bytes;
    sum.staging_bytes += a.staging_bytes - b.staging_bytes;
  }
  return sum;
}

void run_iteration(BenchRank& rank, BenchOperation& operation, OperationSamples& samples) {
  samples.operation.push_back(time_us(rank.comm, [&] { operation.run(); }));
  operation.discard();
  if (operation.is_baseline()) return;
  samples.floor.push_back(time_us(rank.comm, [&] { operation.run_floor(); }));
  if (rank.baseline) {
    samples.baseline.push_back(time_us(rank.comm, [&] { operation.run_baseline(); }));
  }
}

/// For each iteration the slowest rank's time; then the middle one, the one that 99 of 100 keep to, and the
/// least.
std::optional<Times> summarise(Communicator& comm, const Samples& mine, int num_warmups) {
  if (mine.empty()) return std::nullopt;
  Samples slowest(mine.size());
  for (const auto& bytes : comm.all_gather_bytes(std::as_bytes(std::span(mine)))) {
    for (std::size_t i = 0; i < slowest.size(); ++i) {
      double time = 0;
      std::memcpy(&time, bytes.data() + i * sizeof(double), sizeof(double));
      slowest[i] = std::max(slowest[i], time);
    }
  }
  slowest.erase(slowest.begin(), slowest.begin() + num_warmups);
  std::sort(slowest.begin(), slowest.end());
  const auto n = static_cast<double>(slowest.size());
  const auto p99 = static_cast<std::size_t>(std::ceil(0.99 * n)) - 1;
  const std::size_t middle = slowest.size() / 2;
  const double median =
      slowest.size() % 2 == 1 ? slowest[middle] : (slowest[middle - 1] + slowest[middle]) / 2;
  return Times{.median_us = median, .p99_us = slowest[p99], .min_us = slowest.front()};
}

BenchResult summarise(BenchRank& rank, BenchOperation& operation, const OperationSamples& samples) {
  const int num_warmups = rank.options.num_warmups;
  BenchResult result{.op = std::string(operation.name()), .num_sms = rank.handle.num_sms()};
  result.times = *summarise(rank.comm, samples.operation, num_warmups);
  result.floor = summarise(rank.comm, samples.floor, num_warmups);
  result.baseline = summarise(rank.comm, samples.baseline, num_warmups);
  if (!operation.is_baseline()) result.bytes = counters_of_one_run(rank, operation);
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
