// SPDX-License-Identifier: Apache-2.0
#include "bench/measure.h"

#include <fmt/format.h>

#include <algorithm>

namespace flexep::tool {
namespace {

struct OperationSamples {
  Samples operation;
  Samples floor;
  Samples barrier_and_copies;
  Samples baseline;
};

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

/// The same in the end: a graph with other ids than those that were captured.
bool verify_again(BenchRank& rank, BenchOperation& operation) {
  const bool reroutes = rank.options.num_ops_per_graph > 0 && operation.reads_ids();
  if (reroutes) rank.reroute(rank.options.seed + 1);
  const bool is_right = verify(operation, rank.comm);
  if (reroutes) rank.reroute(rank.options.seed);
  return is_right;
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
    scaleout_bytes = all.bytes_scaleout;
    staging_bytes = all.staging_bytes;
  }
  std::int64_t bytes_read = 0;
  std::int64_t bytes_written = 0;
  std::int64_t link_bytes = 0;
  std::int64_t scaleout_bytes = 0;
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
    sum.bytes_scaleout += afters[r].scaleout_bytes - befores[r].scaleout_bytes;
    sum.staging_bytes += afters[r].staging_bytes - befores[r].staging_bytes;
  }
  return sum;
}

void run_iteration(BenchRank& rank, BenchOperation& operation, OperationSamples& samples) {
  samples.operation.push_back(timed(rank.comm, [&] { operation.run(); }));
  operation.discard();
  if (operation.has_floor()) {
    samples.floor.push_back(timed(rank.comm, [&] { operation.run_floor(); }));
    if (operation.meets_in_the_middle()) {
      samples.barrier_and_copies.push_back(timed(rank.comm, [&] { operation.run_barrier_and_copies(); }));
    }
  }
  if (operation.has_baseline()) {
    samples.baseline.push_back(timed(rank.comm, [&] { operation.run_baseline(); }));
  }
}

BenchResult summarise(BenchRank& rank, BenchOperation& operation, const OperationSamples& samples) {
  const int num_warmups = rank.options.num_warmups;
  const int num_operations = operation.num_operations();
  BenchResult result{.op = std::string(operation.name()),
                     .num_domains = rank.num_domains(),
                     .num_sms = rank.handle.num_sms()};
  result.times = *summarise(rank.comm, samples.operation, num_warmups);
  result.times /= num_operations;
  result.floor = summarise(rank.comm, samples.floor, num_warmups);
  result.barrier_and_copies = summarise(rank.comm, samples.barrier_and_copies, num_warmups);
  result.baseline = summarise(rank.comm, samples.baseline, num_warmups);
  // Replays of a graph are not counted by the host.
  const bool is_counted = operation.name() != "baseline_alltoallv" && rank.options.num_ops_per_graph == 0;
  if (is_counted) result.bytes = counters_of_one_run(rank, operation);
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
    BenchResult& result = results.back();
    if (rank.options.runs_gemm_beside)
      result.gemm = measure_gemm_beside(rank, *operations[k], result.times.median_us);
    result.verified =
        verify_again(rank, *operations[k]) && verified[k] != 0 && (!result.gemm || result.gemm->is_right);
  }
  return results;
}

}  // namespace flexep::tool
