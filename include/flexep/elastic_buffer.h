// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>

#include "flexep/communicator.h"
#include "flexep/counters.h"
#include "flexep/dispatch_handle.h"
#include "flexep/event.h"
#include "flexep/registered_memory.h"
#include "flexep/tensor.h"

namespace flexep {

class BufferEngine;

/// What DeepEP V2 lets a program say about multiprocessors and a network between machines. But for
/// allow_hybrid_mode it is accepted, checked and handed to the planning model; neither the CPU nor the
/// transports of today have such things.
struct NetworkOptions {
  /// How rows reach ranks of other domains: once for each token and domain, to the rank of the same scale-up
  /// index, which stores them on (true), or straight to each destination (false). Without effect inside one
  /// domain. Agreed by all ranks. Decides bits together with allow_multiple_reduction, see docs/numerics.md.
  bool allow_hybrid_mode = true;
  /// Whether communication leaves as many multiprocessors as possible to computation.
  bool prefer_overlap_with_compute = true;
  /// Traffic class.
  int sl_idx = 3;
  /// Queue pairs, the most that an operation may ask for; 0 = 129, or 17 without hybrid mode.
  int num_allocated_qps = 0;
};

/// The memory that a GPU's rank receives rows in.
enum class ArenaMemory {
  kDevice,  ///< the device's own
  /// Host memory, which the GPU reaches over PCIe. To rehearse what rows that cross a link do; the same bits,
  /// slower. What other ranks do not store to or read from (results of combine, handles) stays on the GPU.
  kPinnedHost,
};

struct ElasticBufferConfig {
  /// Whose memory the tensors of the operations are, and who moves them.
  Device device = Device::host();
  /// Default of DispatchArgs::num_max_tokens_per_rank, and sizing input of num_bytes(). 0 = whatever arrives.
  int num_max_tokens_per_rank = 0;
  /// Sizing inputs of num_bytes(); num_topk = 0 assumes 32. They limit nothing: memory follows what arrives.
  int hidden = 0;
  int num_topk = 0;
  bool use_fp8_dispatch = false;
  /// Whether combine may round once on the rank that owns several of a token's experts before it sums over
  /// ranks, as a transport that reduces near the experts does. Decides bits in the expanded layout, see
  /// docs/numerics.md. Agreed by all ranks.
  bool allow_multiple_reduction = true;
  /// Accepted, and changes nothing: results always are.
  bool deterministic = false;
  /// Threads that one rank's communication kernels use; 0 = FLEXEP_NUM_THREADS, else cores / local ranks (at
  /// least 1). On a GPU multiprocessors, unless there are several domains, where threads of the host move
  /// rows.
  int num_sms = 0;
  /// Ranks may differ. The CPU has one kind, and so has a GPU in a group of several domains.
  ArenaMemory arena_memory = ArenaMemory::kDevice;
  /// The most that this rank's arena may hold; 0 = no limit. What does not fit is OutOfMemory on this rank
  /// and PeerError on the others.
  std::int64_t max_arena_bytes = 0;
  /// The most memory, beside the arena, that operations may use for rows on their way between domains,
  /// however many ranks there are; kept by the buffer. The least that a rank passes counts for all. More than
  /// a few MiB for each domain gain nothing; InvalidArgument says what is needed when a row does not fit.
  /// Without effect inside one domain.
  std::int64_t max_staging_bytes = 64 << 20;
  /// What num_bytes() answers instead of computing it, a multiple of 2 MiB, and the part of it that would be
  /// host memory. They limit nothing.
  std::optional<std::int64_t> num_bytes;
  std::int64_t num_cpu_bytes = 0;
  /// Whether the program calls destroy(). Otherwise the destructor does all there is to do.
  bool explicitly_destroy = false;
  NetworkOptions network;
};

/// How ranks lie: rank = scaleout_rank * num_scaleup_ranks + scaleup_rank.
struct DomainSize {
  int num_scaleout_ranks = 1;  ///< domains, joined by a network
  int num_scaleup_ranks = 1;   ///< ranks of a domain, which load and store each other's memory
};

struct DispatchArgs {
  /// [T, H], any dtype; a row is a multiple of 16 bytes, elements of a row are neighbours. T may differ
  /// between ranks and may be 0. Not modified.
  Tensor x;
  /// Scaling factors of quantised rows, moved beside them: [T, P], fp32, or int32 holding four UE8M0 each;
  /// any strides. Optional, but on all ranks or none.
  Tensor sf;
  /// int64 or int32 [T, K], each id in [-1, num_experts), distinct within a row except -1 = not routed.
  /// Absent in a cached dispatch.
  Tensor topk_idx;
  /// [T, K], fp32, or fp64 (an extension, for checks in double precision). Optional, but on all ranks or
  /// none. Moved, never inspected.
  Tensor topk_weights;
  /// E, a multiple of the number of ranks; rank r owns experts [r * E / R, (r + 1) * E / R). 0 = the
  /// handle's.
  int num_experts = 0;
  /// N. A rank that gives it may have at most N tokens; more is an error on every rank. 0: the buffer's
  /// default, or T if that is more. All ranks agree on the largest of these.
  int num_max_tokens_per_rank = 0;
  /// A: in the expanded layout each expert's rows start at a multiple of A. 0 = the handle's, else 1.
  int expert_alignment = 0;
  /// Threads for this operation. 0 = the handle's, else the buffer's.
  int num_sms = 0;
  /// At most the buffer's num_allocated_qps; queue pairs of a network, which no transport of today has.
  int num_qps = 0;
  /// Repeats an earlier dispatch's routing ("cached"): no ids, no counting, the same slots.
  DispatchHandle handle;
  /// Expanded layout: one row per (token, local expert), grouped by expert. Unset = the handle's, else false.
  std::optional<bool> do_expand;
  /// Zeroes the alignment gaps of the expanded layout, in every output. Unset = the handle's, else false.
  std::optional<bool> do_zero_padding;
  /// Layout of recv.sf: strides (1, align(rows, 4)), as tensor-core kernels load it, instead of row-major.
  /// Unset = the handle's, else false.
  std::optional<bool> use_tma_aligned_col_major_sf;
  /// int32 [El], optional: this dispatch's pairs per local expert, before alignment, are added to it.
  Tensor cumulative_local_expert_recv_stats;
  /// Whether the handle keeps a copy of topk_idx; otherwise it keeps the tensor itself, which must not change
  /// while the handle lives.
  bool do_handle_copy = true;
  /// The most rows that this rank's recv.x may have; 0 = no limit. Ranks may differ. What does not fit is
  /// dropped as docs/layouts.md says, before anything moves, and counted in handle.num_dropped_tokens().
  /// Costs a second exchange of counts, only when it happens.
  int max_recv_tokens = 0;
  /// Whether the outputs get the size that arrives, for which the caller waits until ranks have exchanged
  /// counts. Unset = true without a handle; a cached dispatch never waits, and true is an error.
  ///
  /// False needs ElasticBufferConfig::num_max_tokens_per_rank (N). Outputs then have room for all that could
  /// arrive: N * R rows, expanded align(N * R * min(K, El) + (A - 1) * El), or max_recv_tokens where that is
  /// less; rows beyond those that arrived are uninitialised, and the handle says how many those are once the
  /// event is done. What only the data tell (bad ids, T > N, another rank's error) is not thrown by the call:
  /// nothing is routed on any rank, and check(), barrier() or the next dispatch with host sync throws it.
  std::optional<bool> do_cpu_sync;
  /// On a GPU, without host sync: int32 [1], how many rows of x, from the first, are tokens; at most T. Read
  /// when the operation runs, so that a captured dispatch can have another number at each replay. Rows of a
  /// combine's output beyond them are uninitialised.
  Tensor num_tokens;
  /// Refuses weights of routed pairs that are NaN or infinite. Costs a pass over them.
  bool check_weights = false;

  /// Returns before the rows have moved; the result's event tells when. Until then the inputs stay as they
  /// are, outputs are not read, and the caller keeps memory alive that no tensor owns.
  bool async_with_compute_stream = false;
  /// Starts after this event, and waits for nothing else that the caller does. Needs allocate_on_comm_stream.
  Event previous_event;
  /// Moves rows only after this event; counts are exchanged before it.
  Event previous_event_before_epilogue;
  /// Whose memory the outputs are; on the CPU there is one kind, and this only permits previous_event.
  bool allocate_on_comm_stream = false;
};

/// Outputs are arena memory; it goes back to the buffer when the last copy of the tensor is destroyed, on any
/// thread.
struct DispatchResult {
  /// Compact: [M, H] ordered by (source rank, source token). Expanded: [rows, H] ordered by (local expert,
  /// source rank, source token), local expert i in rows [start_i, start_i + c_i); gap rows are uninitialised
  /// unless do_zero_padding.
  Tensor x;
  /// If sf was given: [rows, P] beside x, in the strides that were asked for.
  Tensor sf;
  /// Compact: [M, K] in the dtype of the ids sent, local expert index or -1 where the expert lives elsewhere,
  /// column positions kept. Expanded: absent.
  Tensor topk_idx;
  /// If weights were given. Compact: [M, K], 0 where topk_idx is -1. Expanded: [rows], the weight of the
  /// row's pair.
  Tensor topk_weights;
  DispatchHandle handle;
  /// When the rows are there, if the dispatch was asynchronous, or on a GPU without host sync; its error, if
  /// it failed after counts were exchanged.
  Event event;
};

struct CombineArgs {
  /// One row for each row of the dispatch's recv.x: [rows, H'], H' may differ from the dispatch's. Not
  /// modified, and free to be overwritten when combine returns. Memory from dispatch, combine, empty() or
  /// register_memory() is read in place; other memory is staged once. Gap rows are never read. bf16, fp16,
  /// fp32 or fp64.
  Tensor x;
  DispatchHandle handle;
  /// Optional: weights to gather back. Compact: [M, K]; expanded: [rows]; fp32 or fp64.
  Tensor topk_weights;
  /// Up to two rows of H' for each of this rank's T tokens, summed before the token's rows: [T, H'], dtype of
  /// x. Optional, by rank.
  std::array<Tensor, 2> bias;
  /// Threads for this operation. 0 = the handle's.
  int num_sms = 0;
  /// As in DispatchArgs.
  int num_qps = 0;

  /// Returns before the rows have moved; the result's event tells when. Until then the inputs stay as they
  /// are, outputs are not read, and the caller keeps memory alive that no tensor owns.
  bool async_with_compute_stream = false;
  /// Starts after this event, and waits for nothing else that the caller does. Needs allocate_on_comm_stream.
  Event previous_event;
  /// Reads and sums rows only after this event.
  Event previous_event_before_epilogue;
  /// Whose memory the outputs are; on the CPU there is one kind, and this only permits previous_event.
  bool allocate_on_comm_stream = false;
};

struct CombineResult {
  /// [T, H']: for each token the sum of its rows (never weighted), in the order and precision of
  /// docs/numerics.md; zeros for a token that went nowhere. Arena memory.
  Tensor x;
  /// [T, K] if weights were given: the weight that the owner of topk_idx[t, k] supplied, 0 where topk_idx is
  /// -1.
  Tensor topk_weights;
  /// When the sums are there, if the combine was asynchronous; its error, if it failed.
  Event event;
};

/// Moves the tokens of mixture-of-experts layers between the ranks of a group, with the answers of DeepEP
/// V2's ElasticBuffer.
///
/// Operations are collective: every rank calls them in the same order. One buffer runs one operation at a
/// time, in the order of the calls (asynchronous ones on a communication thread of its own), and is called by
/// one thread at a time; two buffers on one group are independent. Tensors and handles may be used and
/// dropped anywhere, and outlive the buffer. Results are a pure function of the inputs, the number of ranks,
/// the layout and allow_multiple_reduction: not of the transport, instruction set, thread count or timing.
class ElasticBuffer {
 public:
  /// Collective: makes a group of its own (Communicator::duplicate). @throws CollectiveMismatch,
  /// TimeoutError, TransportError.
  explicit ElasticBuffer(const Communicator& comm, const ElasticBufferConfig& config = {});
  ~ElasticBuffer();
  ElasticBuffer(ElasticBuffer&&) noexcept;
  ElasticBuffer& operator=(ElasticBuffer&&) noexcept;

  int rank() const;
  int num_ranks() const;
  /// N: the largest of what ranks passed to their constructors.
  int num_max_tokens_per_rank() const;
  /// Whether asynchronous operations go on while the program does other things
  /// (Communicator::supports_async); where not, they are complete when they return.
  bool supports_async() const;
  /// As memory joins ranks, and as the operations treat them: without allow_hybrid_mode as one domain.
  DomainSize get_physical_domain_size() const;
  DomainSize get_logical_domain_size() const;

  /// Sends each token to the ranks that own its top-k experts; returns what this rank received.
  ///
  /// Collective; blocks until this rank's rows are there, unless it is asynchronous.
  /// @throws InvalidArgument on the rank that passed something wrong and PeerError with the same text on all
  /// others;
  ///         CollectiveMismatch on all; in both cases nothing is written and the next correct call works.
  ///         TimeoutError, TransportError: the group is poisoned. OutOfMemory (PeerError on the others).
  /// Cost: reads each row once and stores it once per destination row; one exchange of (R + E) ints per rank,
  /// a second of a header when a rank's arena must grow, and one signal per pair of ranks when rows have
  /// arrived.
  DispatchResult dispatch(const DispatchArgs& args);

  /// Brings the rows back: the mirror image of the dispatch that made the handle.
  ///
  /// Collective; returns when this rank's sums are there and every other rank has read this rank's rows.
  /// @throws as dispatch.
  /// Cost: reads each row once, writes one row per token; one exchange of a header and one signal per pair of
  /// ranks.
  CombineResult combine(const CombineArgs& args);

  /// Returns when all ranks have come here and finished what they called before. Collective.
  /// @throws what check() throws on this rank, then PeerError on the others; TimeoutError, TransportError.
  void barrier();

  /// Waits for this rank's operations in flight and throws the first error of a dispatch without host sync
  /// that nobody has heard of yet: InvalidArgument on the rank that passed something wrong, PeerError on the
  /// others, CollectiveMismatch. Not collective. The buffer stays usable. On a GPU the same for combines,
  /// cached dispatches, and replays of captured operations that have completed.
  void check();

  /// The moment at which everything is done that the calling thread has done so far.
  static Event capture();

  /// Arena memory, uninitialised: an expert that writes its output here spares combine a copy. Not
  /// collective.
  /// @throws OutOfMemory.
  Tensor empty(const Shape& shape, DType dtype);

  /// Lets combine read this memory in place, as it reads memory from empty(): for expert outputs that other
  /// libraries allocate, for as long as the result lives. Not collective.
  ///
  /// @param memory     on the CPU begins and ends with a page; private memory of this process (malloc, mmap
  /// without a file), registered with one buffer. Between processes the pages are moved onto shared memory
  /// where they lie: addresses and contents stay, nobody may write them during this call and at the end of
  /// the registration, and a process forked off meanwhile shares them. On a GPU memory of its device, which
  /// other processes map: docs/cuda.md says what can be shared so. On a GPU across domains it changes
  /// nothing: rows are copied to the host in any case.
  /// @throws InvalidArgument for other memory, or overlapping registrations; OutOfMemory, TransportError.
  /// Cost: between processes on the CPU a copy of the memory, here and at the end; meant for memory that
  /// stays.
  RegisteredMemory register_memory(void* memory, std::size_t num_bytes);

  /// ElasticBufferConfig::num_bytes, else the size that DeepEP V2 would need for this configuration
  /// (get_buffer_size_hint in plan_model.h), 0 when num_max_tokens_per_rank or hidden is not set. @throws
  /// InvalidArgument where DeepEP has no size (rows of no multiple of 32 bytes). flexep allocates what
  /// arrives instead.
  std::int64_t num_bytes() const;

  /// What this rank's operations have moved and waited for. Not collective; from any thread, at any time.
  BufferCounters counters() const;
  /// Ends the buffer once all ranks have come here: what is in flight is finished, tensors and handles stay
  /// usable, every later call throws InvalidArgument. Collective. @throws InvalidArgument when
  /// explicitly_destroy is not set; as barrier(), and then the buffer has ended too.
  void destroy();

  /// Bytes of arena memory that this rank holds now, used or free.
  std::int64_t arena_bytes() const;
  /// Gives every chunk of the arena that nothing uses back to the system; on a GPU those at the arena's end,
  /// and mappings of what other ranks had registered, for which it waits until this rank's operations, and
  /// streams that use such chunks, are done. Not collective. @return the bytes of the arena given back.
  std::int64_t trim();

 private:
  BufferEngine& engine() const;

  std::unique_ptr<BufferEngine> engine_;
};

}  // namespace flexep
