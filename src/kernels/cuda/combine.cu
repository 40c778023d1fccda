// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "kernels/cuda/bulk_sums.cuh"
#include "kernels/cuda/combine.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/pull.cuh"
#include "kernels/cuda/report.cuh"
#include "kernels/cuda/stage.cuh"

namespace flexep::cuda {
namespace {

/// A block may have 227 KiB on sm_90, together with the static part.
constexpr std::size_t kMaxDynamicMemory = 208 * 1024;
/// More than half of what a multiprocessor has, so that each block has one of its own.
constexpr std::size_t kMinDynamicMemory = 120 * 1024;

struct CombineMemory {
  ExchangeMemory exchange;
  // Of staging and of pulling; each counts from its start.
  BulkSums::Memory staging;
  BulkSums::Memory pulling;
};

/// Dynamic shared memory: the stages of the bulk pipelines, the sources, each warp's list of rows.
struct CombineArrays {
  std::byte* stages;
  PullSource* sources;
  std::byte* lists;
  std::size_t list_bytes;

  __host__ __device__ CombineArrays(std::byte* memory, bool is_bulk, int num_ranks, int num_topk)
      : stages(memory),
        sources(reinterpret_cast<PullSource*>(memory + (is_bulk ? BulkSums::kMemoryBytes : 0))),
        lists(reinterpret_cast<std::byte*>(sources) +
              align_up(static_cast<std::size_t>(num_ranks) * sizeof(PullSource), std::size_t{16})),
        list_bytes(
            align_up((num_topk + 2) * sizeof(SumTerm) + num_topk * sizeof(std::int32_t), std::size_t{16})) {}

  __device__ TermList list_of_warp(int num_topk) const {
    auto* terms = reinterpret_cast<SumTerm*>(lists + static_cast<std::size_t>(warp_in_block()) * list_bytes);
    return {terms, reinterpret_cast<std::int32_t*>(terms + num_topk + 2)};
  }
  std::size_t num_bytes() const { return reinterpret_cast<std::size_t>(lists) + kNumWarps * list_bytes; }
};

/// One block's part of a combine.
template <typename T>
class Combine {
 public:
  __device__ Combine(const CombineLaunch& launch, CombineMemory& memory, std::byte* dynamic)
      : launch_(launch),
        memory_(memory),
        operation_(launch.peers, launch.reports),
        head_(*kept<PlanHead>(launch.plan_layout.head())),
        row_bytes_(static_cast<std::size_t>(launch.num_columns) * sizeof(T)),
        arrays_(dynamic, launch.allow_bulk_copies, launch.peers.num_ranks, launch.plan_layout.num_topk) {}

  __device__ void run() {
    if (operation_.is_poisoned()) {
      if (is_speaker()) report_poisoned(operation_);
      return;
    }
    operation_.pass(Phase::kStarted);
    take_header(memory_.exchange, launch_.header);
    const bool goes = stage() && agree();
    operation_.pass(Phase::kAgreed);
    if (goes) pull();
    operation_.pass(Phase::kMoved);
    operation_.finish([&](bool is_intact) { return complete(goes, is_intact); });
  }

 private:
  // ---- Stage: what others cannot reach ----

  __device__ bool stage() {
    if (launch_.staged_x == nullptr && launch_.staged_topk_weights == nullptr) return true;
    if (head_.is_valid != 0) {
      if (launch_.staged_x != nullptr) stage_rows();
      if (launch_.staged_topk_weights != nullptr) stage_weights();
    }
    operation_.arrive();
    if (!operation_.wait_for_all_blocks()) return false;
    if (is_speaker()) cover_with_message();
    return true;
  }

  __device__ void stage_rows() {
    const bool is_reduced = launch_.metadata != nullptr;
    const int num_rows = is_reduced ? head_.num_recv_tokens : head_.num_rows;
    write_sums(memory_.staging, is_in_bulk(num_rows), [&](int worker, int num_workers) {
      const bool leaves_out_own = reads_own_x() || stages_sums_only(launch_);
      return StagedTokens(launch_, row_bytes_, num_rows, leaves_out_own ? own_tokens() : TokenRange{},
                          list().terms, worker, num_workers);
    });
  }

  /// Whether the rows of this rank's own tokens are read where the caller has them: in the compact layout
  /// they are in one piece. (In the expanded one, reducing them while they are pulled gained nothing.)
  __device__ bool reads_own_x() const {
    return launch_.staged_x != nullptr && !launch_.plan_layout.do_expand;
  }

  /// Those among the received tokens that come from this rank.
  __device__ TokenRange own_tokens() const {
    const auto* psum = kept<std::int32_t>(launch_.plan_layout.psum_num_recv_tokens_per_rank());
    const int rank = launch_.peers.rank;
    return {rank == 0 ? 0 : psum[rank - 1], psum[rank]};
  }

  __device__ void stage_weights() {
    const auto num_topk = static_cast<std::size_t>(launch_.plan_layout.num_topk);
    const std::size_t weights_per_row = launch_.plan_layout.do_expand ? 1 : num_topk;
    copy_bytes(launch_.staged_topk_weights, launch_.topk_weights,
               static_cast<std::size_t>(head_.num_rows) * weights_per_row * launch_.weight_bytes);
  }

  // ---- Agree: where everybody's rows are ----

  __device__ bool agree() {
    operation_.pass(Phase::kPrepared);
    if (is_speaker()) {
      if (thread_in_block() == 0 && head_.is_valid == 0)
        memory_.exchange.header().refusal = Refusal::kInvalidHandle;
      send_message(operation_, memory_.exchange.header(), 0, [](int) { return 0; });
    }
    memory_.exchange.judgement.reset();
    if (!await_messages(operation_, memory_.exchange, 0)) {
      operation_.poison();
      if (is_speaker()) report_timeout(operation_, memory_.exchange.missing, 0, Verdict::kTimedOut);
      return false;
    }
    operation_.pass(Phase::kHeard);
    const Messages messages(operation_, memory_.exchange, 0);
    compare_headers(launch_.peers, messages, memory_.exchange.judgement);
    find_sources(messages);
    const Verdict verdict = memory_.exchange.judgement.settle();
    if (is_speaker()) report_verdict(messages, verdict);
    return verdict == Verdict::kGo;
  }

  __device__ void find_sources(const Messages& messages) {
    const auto* sizes = kept<ReceiveSize>(launch_.plan_layout.layout_sizes());
#pragma unroll 1
    for (int r = thread_in_block(); r < launch_.peers.num_ranks; r += kNumThreads) {
      const ExchangeHeader& header = messages.header(r);
      const bool has_sums = is_across_link(r) && header.summed_x.segment >= 0;
      PullSource source{.x = resolve(launch_.peers, r, header.x),
                        .summed_x = has_sums ? resolve(launch_.peers, r, header.summed_x) : nullptr,
                        .topk_weights = resolve(launch_.peers, r, header.topk_weights),
                        .is_per_token = header.x_is_per_token};
      if (r == launch_.peers.rank && reads_own_x()) {
        source.x = launch_.x;
        source.is_per_token = 1;
      }
      arrays_.sources[r] = source;
      const bool has_weights = launch_.weight_bytes == 0 || source.topk_weights != nullptr;
      const bool has_rows = source.x != nullptr && (!has_sums || source.summed_x != nullptr);
      if (sizes[r].num_recv_tokens > 0 && !(has_rows && has_weights))
        memory_.exchange.judgement.find(Verdict::kUnreachable, r);
    }
  }

  __device__ bool is_across_link(int rank) const {
    return launch_.peers.is_across_link != nullptr && launch_.peers.is_across_link[rank] != 0;
  }

  __device__ void report_verdict(const Messages& messages, Verdict verdict) {
    if (verdict != Verdict::kGo)
      return report_failed_verdict(operation_, messages, memory_.exchange.judgement);
    OperationResult& result = *launch_.reports.result;
    auto* is_per_token = array_of<std::int32_t>(result, launch_.reports.layout.is_per_token());
#pragma unroll 1
    for (int r = thread_in_block(); r < launch_.peers.num_ranks; r += kNumThreads)
      is_per_token[r] = arrays_.sources[r].sends_one_row_per_token();
    if (thread_in_block() == 0) report_go(result);
    make_ready(operation_, result, Crew{thread_in_block(), kNumThreads, 0});
  }

  // ---- Pull ----

  __device__ void pull() {
    const PlanLayout& layout = launch_.plan_layout;
    const auto* token_slots = kept<std::int32_t>(layout.token_slots());
    const PullJob job{.launch = launch_,
                      .sources = arrays_.sources,
                      .row_bytes = row_bytes_,
                      .owners = kept<std::int32_t>(layout.owners()),
                      .token_slots = token_slots,
                      .rows = layout.do_expand ? kept<std::int32_t>(layout.rows()) : token_slots,
                      .num_topk = layout.num_topk,
                      .do_expand = layout.do_expand};
    const bool is_in_bulk = this->is_in_bulk(head_.num_tokens);
    write_sums(memory_.pulling, is_in_bulk, [&](int worker, int num_workers) {
      return PulledTokens(job, head_.num_tokens, list(), worker, num_workers);
    });
    if (launch_.weight_bytes == 0) return;
    // Of warps that write no sums, where there are some.
    const int first = is_in_bulk ? BulkSums::kWarps * kWarpSize : 0;
    const int num_threads = kNumThreads - first;
    if (thread_in_block() < first) return;
    gather_weights(job, head_.num_tokens, block() * num_threads + thread_in_block() - first,
                   num_blocks() * num_threads);
  }

  // ---- Sums ----

  /// Whether it takes the pipelines of all warps to sum that many tokens; a few are faster shared out in
  /// parts.
  __device__ bool is_in_bulk(int num_tokens) const {
    return kHasBulkCopies && launch_.allow_bulk_copies && num_tokens > num_blocks() * BulkSums::kWarps;
  }

  /// Each warp sums the rows of the tokens that tokens_of(number of the warp, number of such warps) gives it.
  template <typename TokensOf>
  __device__ void write_sums(BulkSums::Memory& memory, bool is_in_bulk, TokensOf tokens_of) {
    if constexpr (kHasBulkCopies) {
      if (is_in_bulk) return write_sums_in_bulk(memory, tokens_of);
    }
    auto tokens = tokens_of(warp_in_block() * num_blocks() + block(), num_blocks() * kNumWarps);
    sum_in_place<T>(tokens);
  }

  template <typename TokensOf>
  __device__ void write_sums_in_bulk(BulkSums::Memory& memory, TokensOf tokens_of) {
    if (thread_in_block() < BulkSums::kWarps * BulkSums::kStages)
      init_mbarrier(memory.barriers + thread_in_block());
    fence_mbarrier_init();
    fence_async_proxy();  // the rows were written by ordinary stores, which others have told us of
    __syncthreads();
    const int warp = warp_in_block();
    if (warp >= BulkSums::kWarps) return;
    auto tokens = tokens_of(warp * num_blocks() + block(), num_blocks() * BulkSums::kWarps);
    BulkSumPipeline<T, decltype(tokens)>(tokens, arrays_.stages, memory, warp).run();
  }

  // ---- Complete ----

  __device__ bool complete(bool goes, bool is_intact) {
    if (!goes) return is_intact;
    operation_.pass(Phase::kAllMoved);
    if (is_intact && exchange_done(operation_, memory_.exchange.missing)) {
      operation_.pass(Phase::kDone);
      return true;
    }
    report_timeout(operation_, memory_.exchange.missing, 1, Verdict::kGo);
    return false;
  }

  __device__ TermList list() const {
    return arrays_.list_of_warp(launch_.plan_layout.num_topk);
  }
  template <typename P>
  __device__ const P* kept(std::size_t offset) const {
    return reinterpret_cast<const P*>(launch_.plan + offset);
  }

  const CombineLaunch& launch_;
  CombineMemory& memory_;
  Operation operation_;
  const PlanHead& head_;
  std::size_t row_bytes_;
  CombineArrays arrays_;
};

template <typename T>
__global__ void __launch_bounds__(kNumThreads, 1)
    combine_kernel(const __grid_constant__ CombineLaunch launch) {
  extern __shared__ __align__(128) std::byte dynamic[];
  __shared__ CombineMemory memory;
  if (launch.peers.state == nullptr) return;  // load()
  Combine<T>(launch, memory, dynamic).run();
}

std::size_t dynamic_bytes_for(const CombineLaunch& launch) {
  const CombineArrays arrays(nullptr, launch.allow_bulk_copies, launch.peers.num_ranks,
                             launch.plan_layout.num_topk);
  return std::max(arrays.num_bytes(), kMinDynamicMemory);
}

/// Fewer blocks for few tokens, unless they have something to stage.
int blocks_for(const CombineLaunch& launch) {
  constexpr int kTokensPerBlock = 2;
  if (launch.staged_x != nullptr) return launch.num_sms;
  return std::clamp(ceil_div(launch.num_tokens, kTokensPerBlock), 1, launch.num_sms);
}

}  // namespace

cudaError_t load_combine() {
  cudaError_t error = cudaSuccess;
  for (const DType dtype : kAllDTypes) {
    visit_summable(dtype, [&]<typename T>(T) {
      if (error == cudaSuccess) error = load(combine_kernel<T>, kMaxDynamicMemory);
    });
  }
  return error;
}

cudaError_t launch_combine(const CombineLaunch& launch, cudaStream_t stream) {
  CombineLaunch possible = launch;
  possible.allow_bulk_copies = launch.allow_bulk_copies && current_device_has_bulk_copies() &&
                               dynamic_bytes_for(launch) <= kMaxDynamicMemory;
  cudaError_t error = cudaErrorInvalidValue;
  visit_summable(launch.dtype, [&]<typename T>(T) {
    error = enqueue(combine_kernel<T>, possible, blocks_for(launch), dynamic_bytes_for(possible), stream);
  });
  return error;
}

}  // namespace flexep::cuda
