// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "plan/load.h"
#include "plan/memory_rows.h"
#include "plan/routed_rows.h"

namespace flexep::tool {
namespace {

/// Adds what the rows of source `s` ask of everybody.
class LoadSum {
 public:
  LoadSum(const PlanInputs& inputs, const SampledRouting& routing, const Variant& variant)
      : inputs_(inputs),
        variant_(variant),
        rows_(inputs, routing, variant),
        loads_(static_cast<std::size_t>(inputs.num_ranks())),
        flows_(loads_.size()) {}

  void add_source(int source) {
    RankLoad& load = loads_[static_cast<std::size_t>(source)];
    MemoryFlow& flow = flows_[static_cast<std::size_t>(source)];
    load.pairs = static_cast<double>(inputs_.num_tokens) * inputs_.num_topk;
    flow.tokens = static_cast<double>(inputs_.num_tokens);
    for (int to = 0; to < inputs_.num_ranks(); ++to) add_placed(source, to);
    if (variant_.is_hybrid) {
      for (int domain = 0; domain < inputs_.num_scaleout_ranks; ++domain) {
        const int forwarder = rows_.forwarder(source, domain);
        if (forwarder != source) add_crossing(source, forwarder, rows_.to_domain(source, domain));
      }
    }
  }

  std::vector<RankLoad> take() {
    for (std::size_t r = 0; r < loads_.size(); ++r) add_memory_rows(variant_.operation, flows_[r], loads_[r]);
    return std::move(loads_);
  }

 private:
  void add_placed(int source, int to) {
    const double rows = rows_.placed(source, to);
    flows_[static_cast<std::size_t>(to)].placed += rows;
    const int domain = rows_.domain_of(to);
    if (domain == rows_.domain_of(source)) {
      add_link(source, to, rows);
      return;
    }
    const int carrier = variant_.is_hybrid ? rows_.forwarder(source, domain) : to;
    if (!variant_.is_hybrid) add_crossing(source, to, rows_.crossing_direct(source, to));
    if (carrier != to) loads_[static_cast<std::size_t>(carrier)].forwarded += rows;
    add_link(carrier, to, rows);
  }

  void add_link(int from, int to, double rows) {
    if (from == to) {
      loads_[static_cast<std::size_t>(from)].local += rows;
      return;
    }
    loads_[static_cast<std::size_t>(from)].scaleup += rows;
    loads_[static_cast<std::size_t>(to)].scaleup_back += rows;
  }

  void add_crossing(int from, int to, double rows) {
    RankLoad& load = loads_[static_cast<std::size_t>(from)];
    load.scaleout += rows;
    load.messages += messages_of(rows, inputs_);
    loads_[static_cast<std::size_t>(to)].scaleout_back += rows;
    flows_[static_cast<std::size_t>(from)].crossing_out += rows;
    flows_[static_cast<std::size_t>(to)].crossing_in += rows;
  }

  const PlanInputs& inputs_;
  const Variant& variant_;
  RoutedRows rows_;
  std::vector<RankLoad> loads_;
  std::vector<MemoryFlow> flows_;
};

constexpr double RankLoad::*kEntries[] = {
    &RankLoad::local,        &RankLoad::scaleup,       &RankLoad::forwarded, &RankLoad::scaleout,
    &RankLoad::scaleup_back, &RankLoad::scaleout_back, &RankLoad::rows_read, &RankLoad::rows_written,
    &RankLoad::pairs,        &RankLoad::messages};

}  // namespace

Load sampled_load(const PlanInputs& inputs, const SampledRouting& routing, const Variant& variant) {
  LoadSum sum(inputs, routing, variant);
  for (int source = 0; source < inputs.num_ranks(); ++source) sum.add_source(source);
  Load load;
  for (const RankLoad& of_rank : sum.take()) {
    for (const auto entry : kEntries) {
      load.mean.*entry += of_rank.*entry / inputs.num_ranks();
      load.busiest.*entry = std::max(load.busiest.*entry, of_rank.*entry);
    }
  }
  return load;
}

double messages_of(double rows, const PlanInputs& inputs) {
  return std::ceil(rows * inputs.row_bytes() / (inputs.machine.chunk_mib * 1024 * 1024));
}

}  // namespace flexep::tool
