// SPDX-License-Identifier: Apache-2.0
#include "bench/bench_operation.h"

#include "bench/check_cost.h"
#include "bench/copy_floor.h"
#include "bench/graphed_operation.h"
#include "device.h"

namespace flexep::tool {
namespace {

/// An operation of the buffer. On a GPU the host starts it, and then waits.
class BufferOperation : public BenchOperation {
 public:
  explicit BufferOperation(BenchRank& rank) : rank_(rank) {}
  void finish() override { rank_.placement.synchronise(); }

 protected:
  BenchRank& rank_;
};

class Dispatch : public BufferOperation {
 public:
  using BufferOperation::BufferOperation;
  std::string_view name() const override { return "dispatch"; }
  void enqueue() override { result_ = rank_.buffer.dispatch(rank_.fresh_dispatch()); }
  void discard() override { result_ = {}; }
  bool reads_ids() const override { return true; }
  Finding check() const override { return rank_.check.check_dispatch(rank_.fetch(result_)); }
  bool has_floor() const override { return rank_.floor != nullptr; }
  void run_floor() override { rank_.run_dispatch_floor(); }
  bool has_baseline() const override { return rank_.baseline != nullptr; }
  void run_baseline() override { rank_.baseline->dispatch(rank_.x); }

 protected:
  DispatchResult result_;
};

/// As a backward pass dispatches gradients: the slots are known, and there are no weights.
class CachedDispatch final : public Dispatch {
 public:
  using Dispatch::Dispatch;
  std::string_view name() const override { return "cached_dispatch"; }
  void enqueue() override {
    result_ = rank_.buffer.dispatch({.x = rank_.x, .sf = rank_.sf, .handle = rank_.handle});
  }
  bool reads_ids() const override { return false; }
};

class Combine final : public BufferOperation {
 public:
  using BufferOperation::BufferOperation;
  std::string_view name() const override { return "combine"; }
  void enqueue() override {
    x_ = rank_.buffer.combine({.x = rank_.expert_outputs, .handle = rank_.handle}).x;
  }
  void discard() override { x_ = {}; }
  Finding check() const override { return rank_.check.check_combine(rank_.placement.fetch(x_)); }
  bool has_floor() const override { return rank_.floor != nullptr; }
  void run_floor() override { rank_.floor->combine(); }
  bool has_baseline() const override { return rank_.baseline != nullptr; }
  void run_baseline() override { rank_.baseline->combine(); }

 private:
  Tensor x_;
};

/// Dispatch, and combine of what it brought.
class RoundTrip final : public BufferOperation {
 public:
  using BufferOperation::BufferOperation;
  std::string_view name() const override { return "round_trip"; }
  void enqueue() override {
    const DispatchResult received = rank_.buffer.dispatch(rank_.fresh_dispatch());
    x_ = rank_.buffer.combine({.x = received.x, .handle = received.handle}).x;
  }
  void discard() override { x_ = {}; }
  bool reads_ids() const override { return true; }
  Finding check() const override { return rank_.check.check_round_trip(rank_.placement.fetch(x_)); }
  bool has_floor() const override { return rank_.floor != nullptr; }
  void run_floor() override {
    rank_.run_dispatch_floor();
    rank_.floor->combine();
  }
  bool meets_in_the_middle() const override { return true; }
  void run_barrier_and_copies() override {
    rank_.run_dispatch_floor();
    rank_.comm.barrier();
    rank_.floor->combine();
  }
  bool has_baseline() const override { return rank_.baseline != nullptr; }
  void run_baseline() override {
    rank_.baseline->dispatch(rank_.x);
    rank_.baseline->combine();
  }

 private:
  Tensor x_;
};

/// A dispatch without tokens: what ranks tell each other, and what each makes of it.
class Exchange final : public BenchOperation {
 public:
  explicit Exchange(BenchRank& rank) : rank_(rank) {}
  std::string_view name() const override { return "exchange"; }
  void enqueue() override {
    result_ = rank_.buffer.dispatch({.x = rank_.x.rows(0, 0),
                                     .topk_idx = rank_.topk_idx.rows(0, 0),
                                     .num_experts = rank_.options.num_experts,
                                     .do_expand = rank_.options.do_expand()});
  }
  void discard() override { result_ = {}; }
  Finding check() const override {
    if (result_.x.size(0) != 0) return "rows from nowhere";
    return std::nullopt;
  }
  bool has_floor() const override { return false; }

 private:
  BenchRank& rank_;
  DispatchResult result_;
};

/// The baseline's round trip as an operation of its own, so that it is verified and reported like the others.
class BaselineRoundTrip final : public BenchOperation {
 public:
  explicit BaselineRoundTrip(BenchRank& rank) : rank_(rank) {}
  std::string_view name() const override { return "baseline_alltoallv"; }
  void enqueue() override {
    rank_.baseline->dispatch(rank_.x);
    rank_.baseline->combine();
  }
  void discard() override {}
  Finding check() const override {
    if (auto finding = rank_.check.check_rows_received_once(rank_.baseline->received())) return finding;
    return rank_.check.check_returned_once(rank_.baseline->combined());
  }
  bool has_floor() const override { return false; }

 private:
  BenchRank& rank_;
};

std::unique_ptr<BenchOperation> make_operation(std::string_view op, BenchRank& rank) {
  if (op == "dispatch") return std::make_unique<Dispatch>(rank);
  if (op == "cached_dispatch") return std::make_unique<CachedDispatch>(rank);
  if (op == "combine") return std::make_unique<Combine>(rank);
  if (op == "round_trip") return std::make_unique<RoundTrip>(rank);
  if (op == "exchange") return std::make_unique<Exchange>(rank);
  if (op == "checks") return std::make_unique<CheckCost>(rank);
  return std::make_unique<BaselineRoundTrip>(rank);
}

std::vector<float> weights_of(const Workload& workload, int rank) {
  std::vector<float> weights;
  for (std::size_t pair = 0; pair < workload.topk_idx(rank).size(); ++pair)
    weights.push_back(workload.topk_weight(rank, pair));
  return weights;
}

/// The registration ends before its memory goes.
struct RegisteredPages {
  conformance::Pages pages;
  RegisteredMemory registration;
};

ElasticBufferConfig config_of(const BenchOptions& options, Device device) {
  return {.device = device,
          .num_max_tokens_per_rank = options.do_cpu_sync() ? 0 : options.num_tokens,
          .num_sms = options.num_sms,
          .arena_memory = arena_memory_of(options.memory),
          .network = {.allow_hybrid_mode = options.mode == "hybrid"}};
}

}  // namespace

BenchRank::BenchRank(const BenchOptions& bench_options, const Communicator& communicator)
    : options(bench_options),
      comm(communicator),
      workload(options),
      check(options, workload, comm.rank()),
      placement(device_of(options.device, options.num_gpus, comm.rank())),
      buffer(comm, config_of(options, placement.device())) {
  const std::int64_t num_tokens = options.num_tokens_of(comm.rank());
  const Shape pairs({num_tokens, options.num_topk});
  const std::vector<float> weights = weights_of(workload, comm.rank());
  topk_idx = placement.put(Tensor::from_values(workload.topk_idx(comm.rank()), pairs));
  topk_weights = placement.put(Tensor::from_values(std::span(weights), pairs));
  x = make_input({num_tokens, options.hidden}, num_tokens,
                 [&](const Tensor& rows) { check.write_inputs(rows); });
  if (options.num_sf_packs() > 0) {
    const Tensor scales = Tensor::empty({num_tokens, options.num_sf_packs()}, DType::kFloat32);
    check.write_scales(scales);
    sf = placement.put(scales);
  }

  const DispatchResult received = buffer.dispatch(fresh_dispatch());
  handle = received.handle;
  expert_outputs = make_input(received.x.shape(), num_received(),
                              [&](const Tensor& rows) { check.write_expert_outputs(rows); });

  if (!placement.device().is_host()) {
    floor = make_copy_floor(workload, options, comm.rank(), num_domains());
  } else if (num_domains() == 1) {
    floor = std::make_unique<MemoryFloor>(comm.transport(), workload, options, handle.num_sms());
  }
  if (options.has_op("baseline_alltoallv")) {
    baseline = std::make_unique<AlltoallvBaseline>(options, workload, comm.rank(), handle.num_sms());
  }
}

int BenchRank::num_domains() const {
  return buffer.get_physical_domain_size().num_scaleout_ranks;
}

DispatchArgs BenchRank::fresh_dispatch() const {
  return {.x = x,
          .sf = sf,
          .topk_idx = topk_idx,
          .topk_weights = topk_weights,
          .num_experts = options.num_experts,
          .do_expand = options.do_expand(),
          .do_cpu_sync = options.do_cpu_sync()};
}

void BenchRank::run_dispatch_floor() const {
  floor->dispatch(static_cast<const std::byte*>(x.data()), static_cast<const std::byte*>(sf.data()));
}

// Without host sync, outputs have room for more.
DispatchResult BenchRank::fetch(const DispatchResult& result) const {
  const auto arrived = [&](const Tensor& tensor) {
    const bool has_room = tensor && tensor.size(0) > num_received() && !options.do_cpu_sync();
    return placement.fetch(has_room ? tensor.rows(0, num_received()) : tensor);
  };
  DispatchResult fetched = result;
  fetched.x = arrived(result.x);
  fetched.sf = arrived(result.sf);
  fetched.topk_idx = arrived(result.topk_idx);
  fetched.topk_weights = arrived(result.topk_weights);
  return fetched;
}

void BenchRank::reroute(std::uint64_t seed) {
  workload = Workload(options, seed);
  placement.write(topk_idx, Tensor::from_values(workload.topk_idx(comm.rank()), topk_idx.shape()));
}

Tensor BenchRank::make_input(const Shape& shape, std::int64_t num_written,
                             const std::function<void(const Tensor&)>& write) {
  const Tensor input = empty_input(shape);
  if (placement.device().is_host()) {
    write(input.rows(0, num_written));
    return input;
  }
  const Tensor rows = Tensor::empty({num_written, shape[1]}, options.element_type());
  write(rows);
  placement.write(input.rows(0, num_written), rows);
  return input;
}

Tensor BenchRank::empty_input(const Shape& shape) {
  const DType dtype = options.element_type();
  if (options.input == "arena") return buffer.empty(shape, dtype);
  if (options.input == "ordinary") return placement.empty(shape, dtype);
  const auto num_bytes = static_cast<std::size_t>(shape.num_elements()) * size_of(dtype);
  auto pages = std::make_shared<RegisteredPages>(RegisteredPages{placement.pages(num_bytes), {}});
  void* const memory = pages->pages.memory.get();
  pages->registration = buffer.register_memory(memory, pages->pages.num_bytes);
  return Tensor::from_memory(memory, shape, dtype, pages, placement.device());
}

std::vector<std::unique_ptr<BenchOperation>> make_operations(BenchRank& rank) {
  std::vector<std::unique_ptr<BenchOperation>> operations;
  for (const auto& op : rank.options.ops) {
    if (op == "layer") continue;
    operations.push_back(make_operation(op, rank));
    if (rank.options.num_ops_per_graph > 0)
      operations.back() =
          make_graphed_operation(std::move(operations.back()), rank.options.num_ops_per_graph);
  }
  return operations;
}

}  // namespace flexep::tool
