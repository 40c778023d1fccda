// SPDX-License-Identifier: Apache-2.0
#include "plan/simulation.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "plan/link_servers.h"
#include "plan/prediction.h"
#include "plan/routed_rows.h"

namespace flexep::tool {
namespace {

using Interval = LinkServers::Interval;

constexpr double kNever = std::numeric_limits<double>::infinity();

/// The links of all ranks while one operation's rows pass them. Rows are counted from the token's rank to its
/// experts' ranks; a combine moves them the other way.
class RowsInFlight {
 public:
  RowsInFlight(const PlanInputs& inputs, const SampledRouting& routing, const Variant& variant)
      : inputs_(inputs),
        is_hybrid_(variant.is_hybrid),
        is_dispatch_(variant.operation == Operation::kDispatch),
        rows_(inputs, routing, variant),
        row_bytes_(bytes_on_link(inputs, variant.operation)),
        chunk_bytes_(inputs.machine.chunk_mib * 1024 * 1024),
        link_(inputs.num_ranks(), {.gbs = inputs.machine.link_gbs, .latency_us = inputs.machine.link_us}),
        net_(inputs.num_ranks(), {.gbs = inputs.machine.net_gbs,
                                  .latency_us = inputs.machine.net_us,
                                  .message_us = inputs.machine.message_us}) {}

  void run() {
    // What crosses domains takes longest, so a combine begins with it; a dispatch has nothing to gather.
    if (is_dispatch_) send_inside_domains();
    for (int wave = 1; wave < inputs_.num_scaleout_ranks; ++wave) {
      if (is_hybrid_) {
        cross_by_forwarders(wave);
      } else {
        cross_direct(wave);
      }
    }
    if (!is_dispatch_) send_inside_domains();
  }

  const LinkServers& link() const { return link_; }
  const LinkServers& net() const { return net_; }
  double through_us(int rank) const { return std::max(link_.through_us(rank), net_.through_us(rank)); }

 private:
  /// To the domain `wave` after each one's own, from the rank after the one with the same index.
  void cross_direct(int wave) {
    const int size = inputs_.num_scaleup_ranks;
    for (int step = 1; step <= size; ++step) {
      for (int from = 0; from < inputs_.num_ranks(); ++from) {
        const int domain = (rows_.domain_of(from) + wave) % inputs_.num_scaleout_ranks;
        const int to = domain * size + (from + step) % size;
        const double num_rows =
            is_dispatch_ ? rows_.crossing_direct(from, to) : rows_.crossing_direct(to, from);
        move(net_, from, to, num_rows);
      }
    }
  }

  void send_inside_domains() {
    const int size = inputs_.num_scaleup_ranks;
    for (int wave = 1; wave < size; ++wave) {
      for (int from = 0; from < inputs_.num_ranks(); ++from) {
        const int to = from - from % size + (from + wave) % size;
        move(link_, from, to, is_dispatch_ ? rows_.placed(from, to) : rows_.placed(to, from));
      }
    }
  }

  void cross_by_forwarders(int wave) {
    if (!is_dispatch_) gather(wave);
    for (int home = 0; home < inputs_.num_ranks(); ++home) {
      const int domain = partner_domain(home, wave);
      const int forwarder = rows_.forwarder(home, domain);
      const double num_rows = rows_.to_domain(home, domain);
      if (num_rows == 0) continue;
      if (is_dispatch_) {
        forward(home, forwarder, num_rows * row_bytes_, move(net_, home, forwarder, num_rows));
      } else {
        return_rows(forwarder, home, num_rows);
      }
    }
  }

  /// The domain that `home` shares rows with in a wave: a combine's come from the domains before first, as
  /// they send to those after them.
  int partner_domain(int home, int wave) const {
    const int num_domains = inputs_.num_scaleout_ranks;
    return (rows_.domain_of(home) + (is_dispatch_ ? wave : num_domains - wave)) % num_domains;
  }

  /// Rows that come from `home` in `arrival` go on to the ranks of the forwarder's domain.
  void forward(int home, int forwarder, double num_bytes, Interval arrival) {
    const Interval ready = after_first_chunk(arrival, num_bytes);
    for_others_in_domain(forwarder, [&](int to) {
      const double bytes = rows_.placed(home, to) * row_bytes_;
      const double last_bytes = std::min(bytes, chunk_bytes_ / inputs_.num_scaleup_ranks);
      link_.receive(to, bytes, link_.send(forwarder, bytes, 0, ready, last_bytes));
    });
  }

  /// The rows that cross in a wave come together at their forwarders, those of all homes side by side.
  void gather(int wave) {
    gathered_.assign(static_cast<std::size_t>(inputs_.num_ranks()), {.begin = kNever, .end = 0});
    const int size = inputs_.num_scaleup_ranks;
    for (int step = 1; step < size; ++step) {
      for (int home = 0; home < inputs_.num_ranks(); ++home) {
        const int forwarder = rows_.forwarder(home, partner_domain(home, wave));
        const int from = forwarder - forwarder % size + (forwarder + step) % size;
        const double num_rows = rows_.placed(home, from);
        if (num_rows == 0) continue;
        const Interval arrival = move(link_, from, forwarder, num_rows);
        Interval& gathered = gathered_[static_cast<std::size_t>(home)];
        gathered = {std::min(gathered.begin, arrival.begin), std::max(gathered.end, arrival.end)};
      }
    }
  }

  void return_rows(int forwarder, int home, double num_rows) {
    const double bytes = num_rows * row_bytes_;
    Interval gathered = gathered_[static_cast<std::size_t>(home)];
    gathered.begin = std::min(gathered.begin, gathered.end);
    const Interval sent = net_.send(forwarder, bytes, messages_of(num_rows, inputs_),
                                    after_first_chunk(gathered, bytes), std::min(bytes, chunk_bytes_));
    net_.receive(home, bytes, sent);
  }

  template <typename Visit>
  void for_others_in_domain(int rank, Visit visit) const {
    const int size = inputs_.num_scaleup_ranks;
    for (int step = 1; step < size; ++step) visit(rank - rank % size + (rank + step) % size);
  }

  Interval move(LinkServers& links, int from, int to, double num_rows) {
    if (num_rows == 0) return {};
    const double bytes = num_rows * row_bytes_;
    return links.receive(to, bytes, links.send(from, bytes, messages_of(num_rows, inputs_), {}));
  }

  Interval after_first_chunk(Interval arrival, double num_bytes) const {
    const double first_part = std::min(1.0, chunk_bytes_ / num_bytes);
    return {arrival.begin + first_part * (arrival.end - arrival.begin), arrival.end};
  }

  const PlanInputs& inputs_;
  bool is_hybrid_;
  bool is_dispatch_;
  RoutedRows rows_;
  double row_bytes_;
  double chunk_bytes_;
  LinkServers link_;
  LinkServers net_;
  std::vector<Interval> gathered_;  ///< [R], when the rows for each home are at its forwarder
};

}  // namespace

SimulatedOperation simulate(const PlanInputs& inputs, const SampledRouting& routing, const Variant& variant,
                            const RankLoad& busiest) {
  RowsInFlight rows(inputs, routing, variant);
  rows.run();
  const double around_us = 2 * exchange_us(inputs) + host_us(inputs, variant.operation, busiest);
  SimulatedOperation result{.link_us = rows.link().busiest_us(),
                            .net_us = rows.net().busiest_us(),
                            .memory_us = memory_us(inputs, variant.operation, busiest)};
  for (int rank = 0; rank < inputs.num_ranks(); ++rank) {
    const double rank_us = around_us + std::max(rows.through_us(rank), result.memory_us);
    result.mean_us += rank_us / inputs.num_ranks();
    result.total_us = std::max(result.total_us, rank_us);
  }
  return result;
}

}  // namespace flexep::tool
