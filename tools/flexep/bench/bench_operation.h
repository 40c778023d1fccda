// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "bench/alltoallv_baseline.h"
#include "bench/bench_options.h"
#include "bench/memory_floor.h"
#include "bench/row_check.h"
#include "bench/workload.h"
#include "conformance/placement.h"
#include "flexep/flexep.h"

namespace flexep::tool {

/// What one rank's operations work on.
struct BenchRank {
  /// Collective.
  BenchRank(const BenchOptions& options, const Communicator& comm);

  int num_domains() const;
  DispatchArgs fresh_dispatch() const;
  void run_dispatch_floor() const;
  /// The result as the host reads it.
  DispatchResult fetch(const DispatchResult& result) const;
  /// Rows that this rank receives.
  std::int64_t num_received() const {
    return static_cast<std::int64_t>(workload.received_by(comm.rank()).size());
  }
  /// Other ids from now on, in the same tensor; `workload` and `check` follow.
  void reroute(std::uint64_t seed);

  const BenchOptions& options;
  Communicator comm;
  Workload workload;
  RowCheck check;
  conformance::Placement placement;
  ElasticBuffer buffer;
  Tensor x;
  Tensor sf;  ///< none unless rows are fp8
  Tensor topk_idx;
  Tensor topk_weights;
  DispatchHandle handle;                        ///< of a first dispatch
  Tensor expert_outputs;                        ///< a row for each row of that dispatch
  std::unique_ptr<Floor> floor;                 ///< null across domains, whose memory nobody can copy to
  std::unique_ptr<AlltoallvBaseline> baseline;  ///< null unless asked for

 private:
  /// Rows where --input says, the first `num_written` of them written by `write`.
  Tensor make_input(const Shape& shape, std::int64_t num_written,
                    const std::function<void(const Tensor&)>& write);
  Tensor empty_input(const Shape& shape);
};

/// Something that is timed, beside the loops that it is compared with. All are collective.
class BenchOperation {
 public:
  virtual ~BenchOperation() = default;

  virtual std::string_view name() const = 0;
  /// The whole operation, to the arrival of its rows; the output is kept until discard().
  void run() {
    enqueue();
    finish();
  }
  /// Starts it; on a GPU that may be all that the host has to do.
  virtual void enqueue() = 0;
  virtual void finish() {}
  virtual void discard() = 0;
  /// How many operations a run is.
  virtual int num_operations() const { return 1; }
  /// Whether the output depends on what the ids are at that moment.
  virtual bool reads_ids() const { return false; }
  /// Holds the output of the last run against what it has to be.
  virtual Finding check() const = 0;
  /// Whether there is something to compare it with.
  virtual bool has_floor() const { return true; }
  virtual bool has_baseline() const { return false; }
  virtual void run_floor() {}
  /// For an operation whose ranks have to meet in its middle: the floor's copies, and a barrier where they
  /// meet.
  virtual bool meets_in_the_middle() const { return false; }
  virtual void run_barrier_and_copies() {}
  virtual void run_baseline() {}
};

/// The operations of a buffer that the options name, in their order.
std::vector<std::unique_ptr<BenchOperation>> make_operations(BenchRank& rank);

}  // namespace flexep::tool
