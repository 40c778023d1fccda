// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda/dispatch.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/report.cuh"
#include "kernels/cuda/side_data.cuh"

namespace flexep::cuda {
namespace {

/// Dynamic shared memory: masks while tokens are counted and placed, then the stages of the bulk pipelines;
/// and the arrays of the plan. More than half of what a multiprocessor has, so that each block has one of its
/// own.
constexpr std::size_t kStageMemory = BulkPush::kMemoryBytes;
constexpr std::size_t kScratchMemory = 32768;
constexpr std::size_t kDynamicMemory = kStageMemory + kScratchMemory;

struct DispatchMemory {
  ExchangeMemory exchange;
  int num_max_tokens_per_rank;
  unsigned long long bad_pair;
  alignas(8) std::uint64_t barriers[BulkPush::kWarps * BulkPush::kStages];
  BulkPush::Piece loaded[BulkPush::kWarps * BulkPush::kStages];
};

/// The parts of the workspace.
struct Workspace {
  unsigned long long* bad_pairs;  ///< [blocks], the first pair of each block that cannot be sent
  std::int32_t* counts;           ///< [blocks, R + E]
  std::byte* scratch;             ///< [blocks], ReceivePlan that does not fit shared memory

  __host__ __device__ Workspace(std::byte* memory, int num_blocks, int num_columns)
      : bad_pairs(reinterpret_cast<unsigned long long*>(memory)),
        counts(reinterpret_cast<std::int32_t*>(bad_pairs + num_blocks)),
        scratch(reinterpret_cast<std::byte*>(counts) +
                align_up(static_cast<std::size_t>(num_blocks) * static_cast<std::size_t>(num_columns) * 4,
                         std::size_t{16})) {}
};

__device__ TopkIdx topk_idx_of(const DispatchLaunch& launch, const void* ids) {
  return {.ids = ids,
          .idx_bytes = launch.format.idx_bytes,
          .num_topk = launch.format.num_topk,
          .num_ranks = launch.peers.num_ranks,
          .num_experts = launch.num_experts,
          .num_local_experts = launch.num_experts / launch.peers.num_ranks};
}

/// One block's part of a dispatch.
template <bool kBulk>
class Dispatch {
 public:
  __device__ Dispatch(const DispatchLaunch& launch, DispatchMemory& memory, std::byte* dynamic)
      : launch_(launch),
        memory_(memory),
        dynamic_(dynamic),
        operation_(launch.peers, launch.reports),
        topk_idx_(topk_idx_of(launch, launch.topk_idx)),
        workspace_(launch.workspace, num_blocks(), topk_idx_.num_columns()),
        masks_(dynamic, kStageMemory, topk_idx_.num_columns()),
        scratch_(dynamic + kStageMemory, kScratchMemory,
                 workspace_.scratch + static_cast<std::size_t>(block()) *
                                          ReceivePlan::num_bytes(launch.peers.num_ranks, launch.num_experts)),
        plan_(scratch_, launch.peers.num_ranks, launch.num_experts) {}

  __device__ void run() {
    if (operation_.is_poisoned()) {
      if (is_speaker()) report_poisoned(operation_);
      return;
    }
    operation_.pass(Phase::kStarted);
    take_header(memory_.exchange, launch_.header);
    const bool goes = launch_.is_cached() ? agree_on_handle() : count_and_agree();
    operation_.pass(Phase::kAgreed);
    if (goes) move();
    operation_.pass(Phase::kMoved);
    operation_.finish([&](bool is_intact) { return complete(goes, is_intact); });
  }

 private:
  // ---- Agree ----

  __device__ bool count_and_agree() {
    if (is_speaker() && thread_in_block() == 0) head().is_valid = 0;
    num_tokens_ = launch_.device_num_tokens == nullptr ? launch_.num_tokens : *launch_.device_num_tokens;
    const bool has_room = num_tokens_ >= 0 && num_tokens_ <= launch_.plan_layout.max_tokens;
    tokens_ = tokens_of_block(has_room ? num_tokens_ : 0, block());
    if (!count_and_hear(has_room)) return false;
    if (judge_counts() && exceeds_limits(launch_.peers, messages(), plan_, launch_.format.do_expand)) {
      if (!drop_pairs() || !count_and_hear(has_room)) return false;
      judge_counts();
    }
    place_outputs();
    const Verdict verdict = memory_.exchange.judgement.settle();
    if (is_speaker() && verdict != Verdict::kGo) conclude_failure(verdict);
    return verdict == Verdict::kGo;
  }

  __device__ bool agree_on_handle() {
    num_tokens_ = head().num_tokens;
    tokens_ = tokens_of_block(num_tokens_, block());
    if (launch_.check_weights && head().is_valid != 0) {
      note_bad_pair(kNoBadPair);
      operation_.arrive();
      if (!operation_.wait_for_all_blocks()) return false;
    }
    if (is_speaker()) {
      if (thread_in_block() == 0) refuse_handle();
      __syncthreads();
      send_message(operation_, memory_.exchange.header(), 0, [](int) { return 0; });
    }
    if (!hear()) return false;
    judge_handle();
    const Verdict verdict = memory_.exchange.judgement.settle();
    if (is_speaker() && verdict != Verdict::kGo) conclude_failure(verdict);
    return verdict == Verdict::kGo;
  }

  __device__ bool count_and_hear(bool has_room) {
    count();
    operation_.arrive();
    if (!operation_.wait_for_all_blocks()) return false;
    operation_.pass(Phase::kPrepared);
    if (is_speaker()) announce_counts(has_room);
    return hear();
  }

  __device__ void count() {
    std::int32_t* counts = workspace_.counts + static_cast<std::int64_t>(block()) * topk_idx_.num_columns();
    note_bad_pair(count_tokens(topk_idx_, tokens_, masks_, counts));
  }

  /// Tells the speaker of the block's first pair that cannot be sent.
  /// @param bad  for its id; of this thread's tokens.
  __device__ void note_bad_pair(unsigned long long bad) {
    if (launch_.check_weights) bad = min(bad, find_bad_weight(topk_idx_, tokens_, topk_weights()));
    if (thread_in_block() == 0) memory_.bad_pair = kNoBadPair;
    __syncthreads();
    if (bad != kNoBadPair) atomicMin(&memory_.bad_pair, bad);
    __syncthreads();
    if (thread_in_block() == 0) workspace_.bad_pairs[block()] = memory_.bad_pair;
  }

  __device__ std::int32_t count_of_blocks(int column, int num_blocks) const {
    std::int32_t count = 0;
#pragma unroll 16
    for (int b = 0; b < num_blocks; ++b)
      count += workspace_.counts[static_cast<std::int64_t>(b) * topk_idx_.num_columns() + column];
    return count;
  }

  __device__ void announce_counts(bool has_room) {
    if (thread_in_block() == 0) {
      if (has_room) {
        refuse_bad_pair();
      } else {
        memory_.exchange.header().refusal = Refusal::kTooManyTokens;
        memory_.exchange.header().bad_id.value = num_tokens_;
      }
    }
    __syncthreads();
    send_message(operation_, memory_.exchange.header(), topk_idx_.num_columns(),
                 [&](int column) { return count_of_blocks(column, num_blocks()); });
  }

  __device__ void refuse_handle() {
    if (head().is_valid == 0) {
      memory_.exchange.header().refusal = Refusal::kInvalidHandle;
    } else if (launch_.check_weights) {
      refuse_bad_pair();
    }
  }

  __device__ void refuse_bad_pair() {
    unsigned long long bad = kNoBadPair;
    for (int b = 0; b < num_blocks(); ++b) bad = min(bad, workspace_.bad_pairs[b]);
    if (bad == kNoBadPair) return;
    ExchangeHeader& header = memory_.exchange.header();
    const auto pair = static_cast<std::int64_t>(bad & ~kBadWeight);
    BadId& bad_id = header.bad_id;
    bad_id.token = static_cast<std::int32_t>(pair / topk_idx_.num_topk);
    bad_id.column = static_cast<std::int32_t>(pair % topk_idx_.num_topk);
    if ((bad & kBadWeight) != 0) {
      bad_id.value = static_cast<std::int64_t>(topk_weights().bits_of_bad(pair));
      header.refusal = Refusal::kWeightNotFinite;
      return;
    }
    const std::int64_t value = topk_idx_.at(pair);
    bad_id.value = value;
    header.refusal = topk_idx_.is_valid(value) ? Refusal::kIdRepeated : Refusal::kIdOutOfRange;
    while (topk_idx_.at(topk_idx_.first_pair(bad_id.token) + bad_id.first_column) != value)
      ++bad_id.first_column;
  }

  __device__ bool hear() {
    memory_.exchange.judgement.reset();
    if (await_messages(operation_, memory_.exchange)) {
      operation_.pass(Phase::kHeard);
      return true;
    }
    operation_.poison();
    if (is_speaker()) report_timeout(operation_, memory_.exchange.missing, 0, Verdict::kTimedOut);
    return false;
  }

  // ---- What all messages together mean ----

  /// @return whether all agree so far: what each rank receives is known.
  __device__ bool judge_counts() {
    const Messages messages = this->messages();
    Judgement& judgement = memory_.exchange.judgement;
    compare_headers(launch_.peers, messages, judgement);
    if (judgement.settle() != Verdict::kGo) return false;
    sum_counts(launch_.peers, messages, topk_idx_, plan_, judgement,
               [&](int column) { return count_of_blocks(column, block()); });
    find_regions(launch_.peers, messages, plan_);
    agree_on_num_max_tokens(messages);
    __syncthreads();
    start_experts(
        topk_idx_, launch_.expert_alignment, plan_, judgement,
        [&](int expert, std::int32_t start, std::int32_t aligned) { place_expert(expert, start, aligned); });
    return judgement.settle() == Verdict::kGo;
  }

  __device__ void place_outputs() {
    if (memory_.exchange.judgement.settle() != Verdict::kGo) return;
    find_targets(launch_.peers, messages(), launch_.format, plan_, memory_.exchange.judgement);
  }

  /// Takes the pairs that do not fit out of the ids, as if they had never been there; what is left is counted
  /// and exchanged anew. @return false when another block timed out.
  __device__ bool drop_pairs() {
    find_quotas(launch_.peers, messages(), topk_idx_, launch_.format, launch_.expert_alignment, plan_);
    __syncthreads();  // the sizes, which are found once more, have been read
    const bool do_expand = launch_.format.do_expand;
    // Quotas count from an expert's first pair.
    start_experts(topk_idx_, launch_.expert_alignment, plan_, memory_.exchange.judgement,
                  [&](int expert, std::int32_t start, std::int32_t) {
                    if (do_expand) plan_.next[topk_idx_.column_of_expert(expert)] -= start;
                  });
    __syncthreads();
    place_tokens(topk_idx_, tokens_, masks_, plan_.next, places());
    const std::int32_t* place = do_expand ? places().rows : places().token_slots;
    const std::int64_t end = topk_idx_.first_pair(tokens_.end);
    for (std::int64_t i = topk_idx_.first_pair(tokens_.begin) + thread_in_block(); i < end;
         i += kNumThreads) {
      const std::int64_t id = topk_idx_.at(i);
      const bool is_kept = id >= 0 && place[i] < plan_.quotas[topk_idx_.owner_of(id)];
      store_id(static_cast<std::byte*>(launch_.kept_topk_idx), i, topk_idx_.idx_bytes, is_kept ? id : -1);
    }
    topk_idx_.ids = launch_.kept_topk_idx;
    has_dropped_ = true;
    ++operation_.exchange;
    operation_.arrive();  // others still read this block's counts
    return operation_.wait_for_all_blocks();
  }

  __device__ void agree_on_num_max_tokens(const Messages& messages) {
    if (thread_in_block() == 0) memory_.num_max_tokens_per_rank = 0;
    __syncthreads();
    for (int r = thread_in_block(); r < launch_.peers.num_ranks; r += kNumThreads) {
      const std::int32_t num_max_tokens = messages.header(r).num_max_tokens_per_rank;
      atomicMax(&memory_.num_max_tokens_per_rank, num_max_tokens);
      if (std::int64_t{num_max_tokens} * launch_.peers.num_ranks > kMaxRows)
        memory_.exchange.judgement.find(Verdict::kTooLarge, launch_.peers.num_ranks);
    }
  }

  __device__ void place_expert(int expert, std::int32_t start, std::int32_t aligned) {
    const int column = topk_idx_.column_of_expert(expert);
    if (launch_.format.do_expand) plan_.next[column] += start;
    if (topk_idx_.owner_of(expert) != launch_.peers.rank) return;
    const int local = expert % topk_idx_.num_local_experts;
    const std::int32_t count = plan_.totals[column];
    plan_.starts[local] = start;
    if (!has_dropped_) plan_.routed[local] = count;
    if (!is_speaker()) return;
    const PlanLayout& layout = launch_.plan_layout;
    kept<std::int32_t>(layout.num_recv_tokens_per_expert())[local] = count;
    kept<std::int32_t>(layout.expert_start_rows())[local] = start;
    kept<std::int32_t>(layout.psum_num_recv_tokens_per_expert())[local] =
        start + (launch_.format.do_expand ? count : aligned);
    kept<std::int32_t>(layout.num_dropped_tokens())[local] = plan_.routed[local] - count;
  }

  __device__ void judge_handle() {
    const Messages messages = this->messages();
    Judgement& judgement = memory_.exchange.judgement;
    compare_headers(launch_.peers, messages, judgement);
    if (judgement.settle() != Verdict::kGo) return;
    find_regions(launch_.peers, messages, plan_);
    const auto* sizes = kept<ReceiveSize>(launch_.plan_layout.layout_sizes());
    for (int r = thread_in_block(); r < launch_.peers.num_ranks; r += kNumThreads) plan_.sizes[r] = sizes[r];
    const auto* starts = kept<std::int32_t>(launch_.plan_layout.expert_start_rows());
    const auto* counts = kept<std::int32_t>(launch_.plan_layout.num_recv_tokens_per_expert());
    const auto* dropped = kept<std::int32_t>(launch_.plan_layout.num_dropped_tokens());
    for (int i = thread_in_block(); i < topk_idx_.num_local_experts; i += kNumThreads) {
      plan_.starts[i] = starts[i];
      plan_.totals[first_own_column() + i] = counts[i];
      plan_.routed[i] = counts[i] + dropped[i];
    }
    if (thread_in_block() == 0) memory_.num_max_tokens_per_rank = head().num_max_tokens_per_rank;
    __syncthreads();
    find_targets(launch_.peers, messages, launch_.format, plan_, judgement);
  }

  // ---- What the speaker makes of the verdict ----

  __device__ void conclude_failure(Verdict verdict) {
    const Crew everybody{thread_in_block(), kNumThreads, 0};
    if (verdict == Verdict::kTooLarge || verdict == Verdict::kDoesNotFit)
      report_counts(*launch_.reports.result, everybody);
    report_failed_verdict(operation_, messages(), memory_.exchange.judgement);
  }

  /// While rows are moving already.
  __device__ void conclude(const Crew& crew) {
    if (!launch_.is_cached()) {
      keep_plan(crew);
      report_counts(*launch_.reports.result, crew);
    }
    add_stats(crew);
    report_sizes(crew);
  }

  __device__ void keep_plan(const Crew& crew) {
    const Messages messages = this->messages();
    auto* sizes = kept<ReceiveSize>(launch_.plan_layout.layout_sizes());
    for (int r = crew.thread; r < launch_.peers.num_ranks; r += crew.num_threads) sizes[r] = plan_.sizes[r];
    if (crew.warp() == 0) keep_psum_of_ranks(messages);
    if (crew.thread != 0) return;
    const ReceiveSize& own = plan_.sizes[launch_.peers.rank];
    head() = {.is_valid = 1,
              .num_tokens = num_tokens_,
              .num_recv_tokens = own.num_recv_tokens,
              .num_rows = own.num_rows(launch_.format.do_expand),
              .num_max_tokens_per_rank = memory_.num_max_tokens_per_rank};
  }

  __device__ void keep_psum_of_ranks(const Messages& messages) {
    auto* psum = kept<std::int32_t>(launch_.plan_layout.psum_num_recv_tokens_per_rank());
    std::int64_t before = 0;
    for (int first = 0; first < launch_.peers.num_ranks; first += kWarpSize) {
      const int r = first + lane_in_warp();
      const bool exists = r < launch_.peers.num_ranks;
      const std::int64_t end =
          before + inclusive_sum_of_warp(exists ? messages.counts(r)[launch_.peers.rank] : 0);
      if (exists) psum[r] = static_cast<std::int32_t>(end);
      before = __shfl_sync(0xFFFFFFFFu, end, kWarpSize - 1);
    }
  }

  __device__ void add_stats(const Crew& crew) {
    std::int32_t* stats = launch_.cumulative_local_expert_recv_stats;
    if (stats == nullptr) return;
    for (int i = crew.thread; i < topk_idx_.num_local_experts; i += crew.num_threads)
      stats[i] += plan_.routed[i];
  }

  __device__ void report_counts(OperationResult& result, const Crew& crew) {
    const Messages messages = this->messages();
    const ResultLayout& layout = launch_.reports.layout;
    const int rank = launch_.peers.rank;
    const int num_local = topk_idx_.num_local_experts;
    auto* sizes = array_of<ReceiveSize>(result, layout.receive_sizes());
    auto* received = array_of<std::int32_t>(result, layout.recv_tokens_per_rank());
    auto* sent = array_of<std::int32_t>(result, layout.sent_tokens_per_rank());
    for (int r = crew.thread; r < launch_.peers.num_ranks; r += crew.num_threads) {
      sizes[r] = plan_.sizes[r];
      received[r] = messages.counts(r)[rank];
      sent[r] = messages.counts(rank)[r];
    }
    auto* per_expert = array_of<std::int32_t>(result, layout.recv_tokens_per_expert());
    auto* dropped = array_of<std::int32_t>(result, layout.dropped_tokens());
    for (int i = crew.thread; i < num_local; i += crew.num_threads) {
      const std::int32_t count = plan_.totals[first_own_column() + i];
      per_expert[i] = count;
      dropped[i] = plan_.routed[i] - count;
    }
    auto* rows = array_of<std::int32_t>(result, layout.sent_rows_per_rank());
    for (int r = crew.warp(); r < launch_.peers.num_ranks; r += crew.num_warps()) {
      const std::int32_t num_rows =
          launch_.format.do_expand ? sent_pairs(messages, r) : messages.counts(rank)[r];
      if (lane_in_warp() == 0) rows[r] = num_rows;
    }
  }

  /// Pairs that go to `rank`; summed by a warp.
  __device__ std::int32_t sent_pairs(const Messages& messages, int rank) const {
    const int num_local = topk_idx_.num_local_experts;
    const std::int32_t* counts =
        messages.counts(launch_.peers.rank) + topk_idx_.column_of_expert(rank * num_local);
    std::int32_t sum = 0;
    for (int i = lane_in_warp(); i < num_local; i += kWarpSize) sum += counts[i];
    return __reduce_add_sync(0xFFFFFFFFu, sum);
  }

  __device__ void report_sizes(const Crew& crew) {
    OperationResult& result = *launch_.reports.result;
    if (crew.thread == 0) {
      const ReceiveSize& own = plan_.sizes[launch_.peers.rank];
      result.verdict = Verdict::kGo;
      result.num_recv_tokens = own.num_recv_tokens;
      result.num_expanded_tokens = own.num_expanded_tokens;
      result.num_max_tokens_per_rank = memory_.num_max_tokens_per_rank;
    }
    make_ready(operation_, result, crew);
  }

  // ---- Move ----

  __device__ void move() {
    if (!launch_.is_cached()) {
      place_tokens(topk_idx_, tokens_, masks_, plan_.next, places());
      if (kBulk && TokenSource::most_shared(num_tokens_) > 0) operation_.arrive();
    }
    operation_.pass(Phase::kPlaced);
    const bool do_expand = launch_.format.do_expand;
    const PairPlaces places = this->places();
    const PushJob job{.num_tokens = num_tokens_,
                      .num_topk = launch_.format.num_topk,
                      .do_expand = do_expand,
                      .row_bytes = launch_.format.row_bytes,
                      .x = launch_.x,
                      .x_stride = launch_.x_stride,
                      .owners = places.owners,
                      .rows = do_expand ? places.rows : places.token_slots,
                      .targets = plan_.targets};
    const SideData side{
        launch_, job, tokens_, places.token_slots, topk_idx_, memory_.num_max_tokens_per_rank};
    if constexpr (kBulk && kHasBulkCopies) {
      push_in_bulk(job, side);
    } else {
      push_through_registers(job, tokens_, warp_in_block(), kNumWarps);
      push_rest(side, {thread_in_block(), kNumThreads, 0});
    }
  }

  /// A few warps move rows, the others what goes with them.
  __device__ void push_in_bulk(const PushJob& job, const SideData& side) {
    constexpr int kNumStages = BulkPush::kWarps * BulkPush::kStages;
    if (thread_in_block() < kNumStages) init_mbarrier(memory_.barriers + thread_in_block());
    fence_mbarrier_init();
    fence_async_proxy();  // the masks lay where the stages are
    __syncthreads();
    constexpr int kPushThreads = BulkPush::kWarps * kWarpSize;
    const int warp = warp_in_block();
    if (warp < BulkPush::kWarps) {
      BulkPipeline(job, TokenSource(operation_, num_tokens_, warp), dynamic_, memory_.barriers,
                   memory_.loaded, warp)
          .run();
    } else {
      push_rest(side, {thread_in_block() - kPushThreads, kNumThreads - kPushThreads, 1});
    }
  }

  __device__ void push_rest(const SideData& side, const Crew& crew) {
    if (is_speaker()) conclude(crew);
    push_side_data(side, crew.warp(), crew.num_warps());
    keep_ids(crew);
    if (!launch_.do_zero_padding) return;
    zero_gaps(launch_, plan_.targets[launch_.peers.rank], plan_.totals + first_own_column(), plan_.starts,
              block() * crew.num_warps() + crew.warp(), num_blocks() * crew.num_warps());
  }

  __device__ void keep_ids(const Crew& crew) {
    if (launch_.is_cached() || launch_.kept_topk_idx == nullptr || launch_.kept_topk_idx == topk_idx_.ids)
      return;
    const std::int64_t end = topk_idx_.first_pair(tokens_.end);
    for (std::int64_t i = topk_idx_.first_pair(tokens_.begin) + crew.thread; i < end; i += crew.num_threads)
      store_id(static_cast<std::byte*>(launch_.kept_topk_idx), i, topk_idx_.idx_bytes, topk_idx_.at(i));
  }

  __device__ PairPlaces places() const {
    const PlanLayout& layout = launch_.plan_layout;
    return {.owners = kept<std::int32_t>(layout.owners()),
            .token_slots = kept<std::int32_t>(layout.token_slots()),
            .rows = launch_.format.do_expand ? kept<std::int32_t>(layout.rows()) : nullptr};
  }

  // ---- Complete ----

  __device__ bool complete(bool goes, bool is_intact) {
    if (!goes) return is_intact;
    operation_.pass(Phase::kAllMoved);
    if (is_intact && exchange_done(operation_, memory_.exchange.missing)) {
      operation_.pass(Phase::kDone);
      report_done(operation_);
      return true;
    }
    report_timeout(operation_, memory_.exchange.missing, 1, Verdict::kGo);
    return false;
  }

  __device__ TopkWeights topk_weights() const {
    return {launch_.topk_weights, launch_.format.weight_bytes};
  }
  /// Of this rank's first expert.
  __device__ int first_own_column() const {
    return topk_idx_.column_of_expert(launch_.peers.rank * topk_idx_.num_local_experts);
  }
  template <typename T>
  __device__ T* kept(std::size_t offset) const {
    return reinterpret_cast<T*>(launch_.plan + offset);
  }
  __device__ Messages messages() const {
    return Messages(operation_, memory_.exchange);
  }
  __device__ PlanHead& head() const {
    return *kept<PlanHead>(launch_.plan_layout.head());
  }

  const DispatchLaunch& launch_;
  DispatchMemory& memory_;
  std::byte* dynamic_;
  Operation operation_;
  TopkIdx topk_idx_;
  Workspace workspace_;
  Masks masks_;
  Scratch scratch_;
  ReceivePlan plan_;
  int num_tokens_ = 0;
  TokenRange tokens_{};
  bool has_dropped_ = false;
};

template <bool kBulk>
__global__ void __launch_bounds__(kNumThreads, 1)
    dispatch_kernel(const __grid_constant__ DispatchLaunch launch) {
  extern __shared__ __align__(128) std::byte dynamic[];
  __shared__ DispatchMemory memory;
  if (launch.peers.state == nullptr) return;  // load()
  Dispatch<kBulk>(launch, memory, dynamic).run();
}

/// Fewer blocks for few tokens: the barriers between them cost more than they bring.
int blocks_for(const DispatchLaunch& launch) {
  constexpr int kTokensPerBlock = 2;
  if (launch.do_zero_padding) return launch.num_sms;
  const int num_tokens =
      launch.device_num_tokens == nullptr ? launch.num_tokens : launch.plan_layout.max_tokens;
  return std::clamp(ceil_div(num_tokens, kTokensPerBlock), 1, launch.num_sms);
}

}  // namespace

std::size_t dispatch_workspace_bytes(int num_sms, int num_ranks, int num_experts) {
  const Workspace workspace(nullptr, num_sms, num_ranks + num_experts);
  return reinterpret_cast<std::size_t>(workspace.scratch) +
         static_cast<std::size_t>(num_sms) * ReceivePlan::num_bytes(num_ranks, num_experts);
}

cudaError_t load_dispatch() {
  const cudaError_t error = load(dispatch_kernel<true>, kDynamicMemory);
  return error != cudaSuccess ? error : load(dispatch_kernel<false>, kDynamicMemory);
}

cudaError_t launch_dispatch(const DispatchLaunch& launch, cudaStream_t stream) {
  const bool has_bulk_copies = launch.allow_bulk_copies && current_device_has_bulk_copies();
  return enqueue(has_bulk_copies ? dispatch_kernel<true> : dispatch_kernel<false>, launch, blocks_for(launch),
                 kDynamicMemory, stream);
}

}  // namespace flexep::cuda
