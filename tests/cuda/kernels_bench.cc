// SPDX-License-Identifier: Apache-2.0
//
// How fast the kernels are, without the library above them: ranks are streams of one process on one GPU,
// operations follow each other without a gap, and the floor is measured in the same run. One line of JSON for
// each case.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "cuda/device_group.h"
#include "kernels/cuda/combine.h"
#include "kernels/cuda/dispatch.h"

namespace flexep::testing {
namespace {

struct BenchCase {
  std::string name;
  int num_tokens = 4096;
  int num_sms = 16;
  bool do_expand = false;
  int active_ranks = 8;  ///< that have tokens; the others only receive
  int num_iterations = 30;
  /// Operations that are launched together, as a graph, where launches one by one would take longer than they
  /// do; 0 = none.
  int operations_per_graph = 0;
};

constexpr int kRanks = 8;
constexpr int kHidden = 7168;
constexpr int kTopk = 8;
constexpr int kExperts = 256;
constexpr std::size_t kRowBytes = kHidden * 2;
constexpr int kWarmUps = 5;

/// [T, K], distinct ids, uniform.
std::vector<std::int64_t> draw_ids(int rank, int num_tokens) {
  std::mt19937_64 random(static_cast<std::uint64_t>(rank) + 1);
  std::vector<std::int64_t> experts(kExperts), ids;
  std::iota(experts.begin(), experts.end(), 0);
  for (int token = 0; token < num_tokens; ++token) {
    for (int k = 0; k < kTopk; ++k) {
      std::swap(experts[static_cast<std::size_t>(k)],
                experts[static_cast<std::size_t>(k) + random() % static_cast<std::uint64_t>(kExperts - k)]);
      ids.push_back(experts[static_cast<std::size_t>(k)]);
    }
  }
  return ids;
}

/// Rows that cross, all ranks together.
struct Traffic {
  double num_tokens = 0;
  double num_visits = 0;      ///< (token, rank)
  double num_pairs = 0;       ///< (token, expert)
  double num_own_visits = 0;  ///< of them, those that stay on their rank
};

Traffic traffic_of(int num_tokens, int active_ranks) {
  Traffic traffic;
  for (int rank = 0; rank < active_ranks; ++rank) {
    const auto ids = draw_ids(rank, num_tokens);
    for (std::size_t token = 0; token < ids.size(); token += kTopk) {
      unsigned ranks = 0;
      for (std::size_t k = 0; k < kTopk; ++k) ranks |= 1u << (ids[token + k] / (kExperts / kRanks));
      traffic.num_visits += __builtin_popcount(ranks);
      traffic.num_own_visits += ranks >> rank & 1u;
    }
    traffic.num_tokens += num_tokens;
    traffic.num_pairs += num_tokens * kTopk;
  }
  return traffic;
}

/// Bytes read plus written in a second by a device-to-device copy.
double measure_copy_rate(DeviceGroup& group) {
  constexpr std::size_t kBytes = std::size_t{480} << 20;
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<float> times;
  for (int i = 0; i < 20; ++i) {
    const auto from = group.shared(i % kRanks).data(), to = group.shared((i + 1) % kRanks).data();
    cudaEventRecord(begin, group.stream(0));
    cudaMemcpyAsync(to, from, kBytes, cudaMemcpyDeviceToDevice, group.stream(0));
    cudaEventRecord(end, group.stream(0));
    require(cudaEventSynchronize(end), "copy");
    float ms = 0;
    cudaEventElapsedTime(&ms, begin, end);
    times.push_back(ms);
  }
  std::ranges::sort(times);
  return 2.0 * kBytes / (times[times.size() / 2] * 1e-3);
}

/// One rank's part of a case.
struct RankOfBench {
  cuda::DispatchLaunch dispatch;
  cuda::DispatchLaunch cached;
  cuda::CombineLaunch combine;
  cuda::CombineLaunch staged;
  std::uint64_t* phase_times = nullptr;
};

using LaunchOne = std::function<cudaError_t(const RankOfBench&, cudaStream_t)>;

/// What one rank enqueues again and again: an operation, or a graph of several.
class Work {
 public:
  Work(int operations_per_graph, const RankOfBench& rank, cudaStream_t stream, const LaunchOne& launch_one)
      : rank_(rank), stream_(stream), launch_one_(launch_one) {
    if (operations_per_graph == 0) return;
    cudaGraph_t graph;
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
    for (int i = 0; i < operations_per_graph; ++i) require(launch_one(rank, stream), "launch");
    require(cudaStreamEndCapture(stream, &graph), "capture");
    require(cudaGraphInstantiate(&graph_, graph, 0), "instantiate");
    cudaGraphDestroy(graph);
  }
  ~Work() {
    if (graph_ != nullptr) cudaGraphExecDestroy(graph_);
  }
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;

  void enqueue() const {
    require(graph_ != nullptr ? cudaGraphLaunch(graph_, stream_) : launch_one_(rank_, stream_), "launch");
  }

 private:
  const RankOfBench& rank_;
  cudaStream_t stream_;
  const LaunchOne& launch_one_;
  cudaGraphExec_t graph_ = nullptr;
};

class Bench {
 public:
  Bench()
      : group_(kRanks, {.shared_bytes = std::size_t{1250} << 20,
                        .private_bytes = std::size_t{900} << 20,
                        .timeout_ns = 1'000'000'000}) {
    copy_rate_ = measure_copy_rate(group_);
    cudaDeviceProp properties{};
    cudaGetDeviceProperties(&properties, 0);
    device_ = properties.name;
    fmt::print("{{\"device\": \"{}\", \"copy_tb_per_s\": {:.3f}}}\n", device_, copy_rate_ / 1e12);
  }

  void run(const BenchCase& bench) {
    prepare(bench);
    const Traffic traffic = traffic_of(bench.num_tokens, bench.active_ranks);
    const double rows = bench.do_expand ? traffic.num_pairs : traffic.num_visits;
    const double bytes = (traffic.num_tokens + rows) * kRowBytes;
    report(bench, "dispatch", bytes,
           [](const RankOfBench& r, cudaStream_t s) { return launch_dispatch(r.dispatch, s); });
    if (bench.do_expand) find_metadata();
    report(bench, "cached", bytes,
           [](const RankOfBench& r, cudaStream_t s) { return launch_dispatch(r.cached, s); });
    report(bench, "combine", bytes,
           [](const RankOfBench& r, cudaStream_t s) { return launch_combine(r.combine, s); });
    report(bench, "combine_plain", bytes,
           [](const RankOfBench& r, cudaStream_t s) { return launch_combine(plain(r.combine), s); });
    // What stays on its rank is not staged.
    const double staged = (traffic.num_visits - traffic.num_own_visits) * kRowBytes;
    report(bench, "combine_staged", bytes + 2 * staged,
           [](const RankOfBench& r, cudaStream_t s) { return launch_combine(r.staged, s); });
    report(bench, "combine_staged_plain", bytes + 2 * staged,
           [](const RankOfBench& r, cudaStream_t s) { return launch_combine(plain(r.staged), s); });
  }

 private:
  /// Without the copy engine: rows go straight into registers.
  static cuda::CombineLaunch plain(cuda::CombineLaunch launch) {
    launch.allow_bulk_copies = false;
    return launch;
  }

  void prepare(const BenchCase& bench) {
    ranks_.assign(kRanks, {});
    for (int rank = 0; rank < kRanks; ++rank) prepare_rank(bench, rank);
    require(cudaDeviceSynchronize(), "prepare");
  }

  void prepare_rank(const BenchCase& bench, int rank) {
    DeviceMemory& memory = group_.private_memory(rank);
    DeviceMemory& shared = group_.shared(rank);
    memory.clear();
    shared.clear();
    RankOfBench& r = ranks_[static_cast<std::size_t>(rank)];
    const int own_tokens = rank < bench.active_ranks ? bench.num_tokens : 0;
    const auto num_tokens = static_cast<std::size_t>(bench.num_tokens);
    const std::size_t max_rows = num_tokens * kRanks * 5 / 4 + 1024;
    const std::size_t region_bytes = max_rows * (kRowBytes + 256);
    std::byte* region = shared.take(region_bytes);
    const auto ids = draw_ids(rank, own_tokens);
    r.phase_times = reinterpret_cast<std::uint64_t*>(memory.take(256));

    cuda::DispatchLaunch& d = r.dispatch;
    d.peers = group_.peers(rank);
    d.reports = group_.reports(rank, kExperts / kRanks);
    d.reports.phase_times = r.phase_times;
    d.num_sms = bench.num_sms;
    d.header.region = group_.address(rank, region);
    d.header.region_bytes = region_bytes;
    d.header.num_max_tokens_per_rank = bench.num_tokens;
    d.format = {.do_expand = bench.do_expand, .num_topk = kTopk, .row_bytes = kRowBytes, .weight_bytes = 4};
    d.num_experts = kExperts;
    d.expert_alignment = bench.do_expand ? 128 : 1;
    d.num_tokens = own_tokens;
    std::byte* ids_on_device = memory.take(ids.size() * 8);
    cudaMemcpy(ids_on_device, ids.data(), ids.size() * 8, cudaMemcpyHostToDevice);
    d.topk_idx = ids_on_device;
    d.kept_topk_idx = memory.take(ids.size() * 8);
    std::byte* x = memory.take(num_tokens * kRowBytes);
    cudaMemset(x, 0x3C + rank, num_tokens * kRowBytes);
    d.x = x;
    d.x_stride = kRowBytes;
    d.topk_weights = memory.take(ids.size() * 4);
    d.plan_layout = {.num_ranks = kRanks,
                     .num_local_experts = kExperts / kRanks,
                     .max_tokens = bench.num_tokens,
                     .num_topk = kTopk,
                     .do_expand = bench.do_expand};
    d.plan = memory.take(d.plan_layout.num_bytes());
    d.workspace = memory.take(cuda::dispatch_workspace_bytes(bench.num_sms, kRanks, kExperts));

    r.cached = d;
    r.cached.format.has_metadata = false;
    r.cached.kept_topk_idx = nullptr;

    cuda::CombineLaunch& c = r.combine;
    c.peers = d.peers;
    c.reports = d.reports;
    c.num_sms = bench.num_sms;
    c.header.x = d.header.region;
    c.header.x_is_per_token = !bench.do_expand;
    c.plan = d.plan;
    c.plan_layout = d.plan_layout;
    c.num_tokens = own_tokens;
    c.num_columns = kHidden;
    c.out_x = memory.take(num_tokens * kRowBytes);

    r.staged = c;
    r.staged.x = memory.take(max_rows * kRowBytes);
    r.staged.staged_x = shared.take(max_rows * kRowBytes);
    r.staged.header.x = group_.address(rank, r.staged.staged_x);
    r.staged.header.x_is_per_token = 1;
  }

  /// Stage L reads the metadata of the last dispatch, which lie where its output ends.
  void find_metadata() {
    for (int rank = 0; rank < kRanks; ++rank) {
      RankOfBench& r = ranks_[static_cast<std::size_t>(rank)];
      const auto& result = group_.result(rank);
      const OutputLayout layout(r.dispatch.format, {result.num_recv_tokens, result.num_expanded_tokens});
      r.staged.metadata = reinterpret_cast<const std::int32_t*>(
          group_.shared(rank).data() + r.dispatch.header.region.offset + layout.metadata_offset());
    }
  }

  /// [iterations], the time of each operation on the slowest rank, in us.
  std::vector<double> measure(const BenchCase& bench, const LaunchOne& launch_one) {
    const int num_operations = kWarmUps + bench.num_iterations;
    std::vector<std::vector<cudaEvent_t>> events(
        kRanks, std::vector<cudaEvent_t>(static_cast<std::size_t>(num_operations)));
    for (auto& of_rank : events) {
      for (auto& event : of_rank) cudaEventCreate(&event);
    }
    // One thread launches for all ranks in turn. Where two streams share a hardware queue, a rank that runs
    // ahead would block the kernel that it waits for.
    std::vector<std::unique_ptr<Work>> works;
    for (int rank = 0; rank < kRanks; ++rank)
      works.push_back(std::make_unique<Work>(bench.operations_per_graph,
                                             ranks_[static_cast<std::size_t>(rank)], group_.stream(rank),
                                             launch_one));
    for (std::size_t i = 0; i < static_cast<std::size_t>(num_operations); ++i) {
      for (int rank = 0; rank < kRanks; ++rank) {
        const auto r = static_cast<std::size_t>(rank);
        works[r]->enqueue();
        cudaEventRecord(events[r][i], group_.stream(rank));
      }
    }
    group_.synchronize();
    std::vector<double> times;
    for (int i = kWarmUps; i < num_operations; ++i) {
      double slowest = 0;
      for (const auto& of_rank : events) {
        float ms = 0;
        cudaEventElapsedTime(&ms, of_rank[static_cast<std::size_t>(i - 1)],
                             of_rank[static_cast<std::size_t>(i)]);
        slowest = std::max(slowest, ms * 1e3 / std::max(bench.operations_per_graph, 1));
      }
      times.push_back(slowest);
    }
    for (auto& of_rank : events) {
      for (auto& event : of_rank) cudaEventDestroy(event);
    }
    std::ranges::sort(times);
    return times;
  }

  std::string phases() const {
    std::vector<std::uint64_t> times(cuda::kNumPhases);
    cudaMemcpy(times.data(), ranks_[0].phase_times, times.size() * 8, cudaMemcpyDeviceToHost);
    std::string text;
    for (int i = 1; i < cuda::kNumPhases; ++i) {
      const auto since =
          static_cast<double>(times[static_cast<std::size_t>(i)]) - static_cast<double>(times[0]);
      text += fmt::format("{}{:.1f}", i > 1 ? ", " : "", since * 1e-3);
    }
    return text;
  }

  void report(const BenchCase& bench, const char* operation, double bytes, const LaunchOne& launch_one) {
    const auto times = measure(bench, launch_one);
    const double median = times[times.size() / 2];
    const double floor = bytes / copy_rate_ * 1e6;
    const auto verdict = static_cast<int>(group_.result(0).verdict);
    fmt::print(
        "{{\"case\": \"{}\", \"operation\": \"{}\", \"tokens\": {}, \"num_sms\": {}, \"median_us\": {:.1f}, "
        "\"min_us\": "
        "{:.1f}, \"p90_us\": {:.1f}, \"floor_us\": {:.1f}, \"of_floor\": {:.2f}, \"verdict\": {}, "
        "\"phases_us\": [{}]}}\n",
        bench.name, operation, bench.num_tokens, bench.num_sms, median, times.front(),
        times[times.size() * 9 / 10], floor, floor / median, verdict, phases());
    std::fflush(stdout);
  }

  DeviceGroup group_;
  double copy_rate_ = 0;
  std::string device_;
  std::vector<RankOfBench> ranks_;
};

}  // namespace
}  // namespace flexep::testing

/// @param argv  a word: only cases whose name contains it.
int main(int argc, char** argv) {
  using flexep::testing::Bench;
  using flexep::testing::BenchCase;
  if (!flexep::testing::DeviceGroup::is_possible()) {
    fmt::print(stderr, "no GPU of sm_90 or later\n");
    return 1;
  }
  const std::vector<BenchCase> cases{
      {.name = "1 token", .num_tokens = 1, .num_iterations = 40, .operations_per_graph = 20},
      {.name = "128 tokens", .num_tokens = 128, .num_iterations = 40, .operations_per_graph = 20},
      {.name = "compact, 6 SMs", .num_sms = 6},
      {.name = "compact"},
      {.name = "expanded", .do_expand = true},
      {.name = "one active rank, 1 SM", .num_tokens = 1024, .num_sms = 1, .active_ranks = 1},
      {.name = "one active rank, 8 SMs", .num_sms = 8, .active_ranks = 1},
  };
  Bench bench;
  for (const BenchCase& one : cases) {
    if (argc < 2 || one.name.find(argv[1]) != std::string::npos) bench.run(one);
  }
  return 0;
}
