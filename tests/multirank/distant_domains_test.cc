// SPDX-License-Identifier: Apache-2.0
//
// Rows that cross to domains far away: the library's own crossings, over a network and on processors whose
// time is simulated, so that the figures are the same wherever and however slowly this runs.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <numeric>
#include <random>
#include <tuple>

#include "core/combine_crossing.h"
#include "core/dispatch_crossing.h"
#include "flexep/communicator.h"
#include "routing/routing_counts.h"
#include "simulated_network.h"

namespace flexep::testing {
namespace {

using namespace std::chrono_literals;

constexpr int kNumExperts = 64;
constexpr int kNumTopk = 8;
constexpr int kNumTokens = 2048;
constexpr std::size_t kRowBytes = 14336;
constexpr std::size_t kMaxStagingBytes = 64 << 20;
constexpr double kForever = std::numeric_limits<double>::infinity();

/// How fast all is; bytes in a microsecond.
struct Speeds {
  double cable = kForever;
  double delay_us = 0;
  double processor = kForever;  ///< of rows that it reads and writes
};
/// 10 Gbit/s, a millisecond away.
constexpr Speeds kDistant{.cable = 1250, .delay_us = 1000};

/// Moves nothing, but takes the time that it would take.
class TimedBackend final : public Backend {
 public:
  TimedBackend(double& now_us, double bytes_per_us) : now_us_(now_us), bytes_per_us_(bytes_per_us) {}

  int default_width(int) const override { return 1; }
  void push(const PushJob& job, int) override { take(*job.plan); }
  void pull(const PullJob& job, int) override { take(*job.plan); }
  void pull_weights(const PullJob&, int) override {}
  void zero_gaps(const ZeroGapsJob&, int) override {}
  void reduce_tokens(const ReduceTokensJob&, int) override {}
  void copy(std::byte*, const std::byte*, std::size_t, int) override {}

 private:
  // A row of each token that has any, and one for each rank that it goes to or comes from.
  void take(const SendPlan& plan) {
    std::size_t num_rows = plan.masters.size();
    for (int token = 0; token < plan.num_tokens; ++token) num_rows += plan.masters_of(token).empty() ? 0 : 1;
    now_us_ += static_cast<double>(num_rows * kRowBytes) / bytes_per_us_;
  }

  double& now_us_;
  double bytes_per_us_;
};

/// What a rank knows when rows begin to cross.
struct Planned {
  Routes routes;
  SendPlan send;
  CrossingPlan crossing;
};

std::vector<std::int64_t> draw_topk_idx(int rank) {
  std::mt19937 random(static_cast<unsigned>(rank) + 1);
  std::vector<std::int64_t> experts(kNumExperts);
  std::iota(experts.begin(), experts.end(), 0);
  std::vector<std::int64_t> ids;
  for (int token = 0; token < kNumTokens; ++token) {
    std::ranges::shuffle(experts, random);
    ids.insert(ids.end(), experts.begin(), experts.begin() + kNumTopk);
  }
  return ids;
}

/// Of all ranks, which are threads meanwhile.
std::vector<Planned> plan_all(const Topology& topology, bool is_hybrid) {
  const int num_ranks = topology.num_scaleout_ranks * topology.num_scaleup_ranks;
  std::vector<Planned> all(static_cast<std::size_t>(num_ranks));
  in_process(
      num_ranks,
      [&](Communicator& comm) {
        const std::vector<std::int64_t> topk_idx = draw_topk_idx(comm.rank());
        const TopkIds ids{.ids = topk_idx, .num_tokens = kNumTokens, .num_topk = kNumTopk};
        const RoutingShape shape{.num_ranks = num_ranks, .num_experts = kNumExperts, .num_topk = kNumTopk};
        Planned& mine = all[static_cast<std::size_t>(comm.rank())];
        mine.routes = {.topology = topology, .rank = comm.rank(), .is_hybrid = is_hybrid};
        const auto sent = list_crossing_tokens(ids, shape, mine.routes);
        const CrossingCounts counts =
            count_across_domains(comm.transport(), count_routing(ids, shape, comm.rank()), sent, 1);
        mine.send = plan_send(ids, counts.counts, shape);
        mine.crossing = exchange_plans(comm.transport(), mine.routes, mine.send, sent, counts.num_carried, 1);
      },
      {.timeout = 60s, .num_scaleup_ranks = topology.num_scaleup_ranks});
  return all;
}

/// A rank, with a clock, a processor and a place in the network.
class SimulatedRank {
 public:
  SimulatedRank(const Planned& planned, SimulatedNetwork& network, double bytes_per_us)
      : planned_(planned),
        backend_(now_us_, bytes_per_us),
        messages_(network, planned.routes.rank, now_us_) {}
  SimulatedRank(const SimulatedRank&) = delete;
  SimulatedRank& operator=(const SimulatedRank&) = delete;

  void begin_dispatch() {
    const OutputFormat format{.num_topk = kNumTopk, .row_bytes = kRowBytes};
    const Waves waves = plan_dispatch_waves(format, limits());
    targets_.resize(static_cast<std::size_t>(planned_.routes.num_ranks()));
    traffic_ = std::make_unique<DispatchCrossing>(
        DispatchCrossing::Job{.backend = &backend_,
                              .messages = &messages_,
                              .routes = &planned_.routes,
                              .plan = &planned_.crossing,
                              .send = &planned_.send,
                              .rows = {.rank = planned_.routes.rank,
                                       .src_tokens = {},
                                       .x = nowhere(kNumTokens * kRowBytes),
                                       .x_stride = kRowBytes,
                                       .row_bytes = kRowBytes,
                                       .topk_idx = ids_,
                                       .targets = targets_},
                              .format = format,
                              .waves = waves,
                              .staging = nowhere(waves.num_bytes())});
  }

  void begin_combine() {
    sources_.resize(static_cast<std::size_t>(planned_.routes.num_ranks()));
    const PullJob rows{.plan = &planned_.send,
                       .num_columns = kRowBytes / size_of(DType::kBFloat16),
                       .sources = sources_,
                       .x = nowhere(kNumTokens * kRowBytes)};
    const CombineFormat format = CombineCrossing::format_of(planned_.routes, rows);
    const Waves waves = plan_combine_waves(format, limits());
    traffic_ = std::make_unique<CombineCrossing>(CombineCrossing::Job{.backend = &backend_,
                                                                      .messages = &messages_,
                                                                      .routes = &planned_.routes,
                                                                      .plan = &planned_.crossing,
                                                                      .rows = rows,
                                                                      .format = format,
                                                                      .waves = waves,
                                                                      .staging = nowhere(waves.num_bytes())});
  }

  double now_us() const { return now_us_; }
  bool is_done() const { return traffic_->is_done(); }
  /// Does what it can, or looks again a little later, as ranks do.
  void advance() {
    constexpr double kPollUs = 50;
    if (!traffic_->advance()) now_us_ += kPollUs;
  }

 private:
  WaveLimits limits() const {
    return {.max_staging_bytes = kMaxStagingBytes,
            .num_partners = static_cast<int>(planned_.routes.partners(1).size()),
            .num_max_tokens_per_rank = kNumTokens};
  }

  /// Addresses at which nothing is ever read or written.
  std::byte* nowhere(std::size_t num_bytes) {
    places_.push_back(std::make_unique_for_overwrite<std::byte[]>(num_bytes));
    return places_.back().get();
  }

  const Planned& planned_;
  double now_us_ = 0;
  TimedBackend backend_;
  SimulatedMessages messages_;
  std::vector<std::unique_ptr<std::byte[]>> places_;
  std::vector<std::int64_t> ids_ = std::vector<std::int64_t>(std::size_t{kNumTokens} * kNumTopk);
  std::vector<PushTarget> targets_;
  std::vector<PullSource> sources_;
  std::unique_ptr<Traffic> traffic_;
};

struct Times {
  double total_us = 0;
  double cable_us = 0;  ///< that the busiest cable is busy
};

Times simulate(const std::vector<Planned>& planned, bool is_dispatch, const Speeds& speeds) {
  SimulatedNetwork network(planned.front().routes.topology, speeds.cable, speeds.delay_us);
  std::vector<std::unique_ptr<SimulatedRank>> ranks;
  for (const Planned& rank : planned) {
    ranks.push_back(std::make_unique<SimulatedRank>(rank, network, speeds.processor));
    is_dispatch ? ranks.back()->begin_dispatch() : ranks.back()->begin_combine();
  }
  const auto is_done = [](const auto& rank) { return rank->is_done(); };
  const auto earlier = [&](const auto& a, const auto& b) {
    return std::pair(a->is_done(), a->now_us()) < std::pair(b->is_done(), b->now_us());
  };
  // Whoever is furthest behind goes on, so that all see things happen in the order of time.
  while (!std::ranges::all_of(ranks, is_done)) (*std::ranges::min_element(ranks, earlier))->advance();
  Times times{.cable_us = network.busiest_us()};
  for (const auto& rank : ranks) times.total_us = std::max(times.total_us, rank->now_us());
  return times;
}

/// Domains, ranks of each; hybrid or direct; dispatch or combine.
using Case = std::tuple<Topology, bool, bool>;

class DistantDomainsTest : public ::testing::TestWithParam<Case> {};

// A gap of the cable, or of the processor while there is work, would add to the larger of the two.
TEST_P(DistantDomainsTest, CrossingTakesLittleMoreThanTheLargerOfCableAndProcessorAlone) {
  const auto& [topology, is_hybrid, is_dispatch] = GetParam();
  const std::vector<Planned> planned = plan_all(topology, is_hybrid);
  const double cable_us = simulate(planned, is_dispatch, kDistant).cable_us;
  const double bytes = simulate(planned, is_dispatch, {.processor = 1}).total_us;
  for (const double processor_share : {0.01, 0.5, 1.0, 2.0}) {
    Speeds speeds = kDistant;
    speeds.processor = bytes / (processor_share * cable_us);
    const double longer_us = std::max(1.0, processor_share) * cable_us;
    EXPECT_LT(simulate(planned, is_dispatch, speeds).total_us, 1.25 * longer_us)
        << "where the processor alone takes " << processor_share << " of the " << cable_us
        << " us of the cable alone";
  }
}

std::string name_of(const ::testing::TestParamInfo<Case>& test) {
  const auto& [topology, is_hybrid, is_dispatch] = test.param;
  return std::to_string(topology.num_scaleout_ranks) + "Domains" +
         std::to_string(topology.num_scaleup_ranks) + "Ranks" + (is_hybrid ? "Hybrid" : "Direct") +
         (is_dispatch ? "Dispatch" : "Combine");
}

INSTANTIATE_TEST_SUITE_P(, DistantDomainsTest,
                         ::testing::Combine(::testing::Values(Topology{2, 1}, Topology{2, 2}, Topology{4, 2}),
                                            ::testing::Bool(), ::testing::Bool()),
                         name_of);

}  // namespace
}  // namespace flexep::testing
