// SPDX-License-Identifier: Apache-2.0
//
// All inline assembly of flexep. Every ordering between ranks goes through publish() and has_arrived(), or
// through the words of a message, store_word() and load_word().
#pragma once

#include <cstddef>
#include <cstdint>

namespace flexep::cuda {

// ---- Signals between ranks -----------------------------------------------------------------------------

/// Stores `value` into a word of another rank (or of the host). Whatever this thread has stored or observed
/// before, barriers included, is visible to whoever sees the value with arrived(). System scope, release.
__device__ inline void publish(std::uint64_t* word, std::uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

/// The same for whoever runs on this GPU: 0.4 us, where the barrier of the whole system takes 1.5 (H100).
__device__ inline void publish_on_gpu(std::uint64_t* word, std::uint64_t value) {
  asm volatile("st.release.gpu.global.u64 [%0], %1;" ::"l"(word), "l"(value) : "memory");
}

/// Whether a word of this rank has reached `value`; pairs with publish() and publish_on_gpu().
/// System scope, acquire.
__device__ inline bool has_arrived(const std::uint64_t* word, std::uint64_t value) {
  std::uint64_t seen;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(seen) : "l"(word) : "memory");
  return seen >= value;
}

// ---- Messages between ranks -----------------------------------------------------------------------------

/// A word of a message together with the number of its exchange, stored and loaded as one: it says itself
/// that it has come, and nobody has to wait until a message is stored before he can signal it. Stores, and
/// loads without acquire, are told apart from signals in the machine code by "no_allocate".
struct alignas(8) MessageWord {
  std::uint32_t value;
  std::uint32_t exchange;
};

/// Whatever this thread has stored or observed before, barriers included, is visible to whoever sees with
/// load_word() what it stores with store_word() afterwards. System scope, release.
__device__ inline void release_words() {
  asm volatile("fence.acq_rel.sys;" ::: "memory");
}

__device__ inline void store_word(MessageWord* word, const MessageWord& from) {
  asm volatile("st.relaxed.sys.global.L1::no_allocate.u64 [%0], %1;" ::"l"(word),
               "l"(static_cast<std::uint64_t>(from.exchange) << 32 | from.value)
               : "memory");
}

/// A word of this rank; pairs with store_word(), and with release_words() before it. System scope, acquire.
__device__ inline MessageWord load_word(const MessageWord* word) {
  std::uint64_t seen;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(seen) : "l"(word) : "memory");
  return {static_cast<std::uint32_t>(seen), static_cast<std::uint32_t>(seen >> 32)};
}

/// The same without acquire: what came with release_words() is not yet visible. Several may be under way.
__device__ inline MessageWord load_word_alone(const MessageWord* word) {
  std::uint64_t seen;
  asm volatile("ld.relaxed.sys.global.L1::no_allocate.u64 %0, [%1];" : "=l"(seen) : "l"(word) : "memory");
  return {static_cast<std::uint32_t>(seen), static_cast<std::uint32_t>(seen >> 32)};
}

// ---- Signals between the blocks of one kernel ------------------------------------------------------------

/// Adds one to a counter. GPU scope, release; pairs with load_acquire().
__device__ inline void add_release(std::uint32_t* counter) {
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

__device__ inline std::uint32_t load_acquire(const std::uint32_t* word) {
  std::uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}

/// Waits for `num_threads` threads of the block, whole warps, that come to the barrier of this number; 0 is
/// __syncthreads().
__device__ inline void sync_threads(int barrier, int num_threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(num_threads) : "memory");
}

// ---- Time ------------------------------------------------------------------------------------------------

/// A clock that all multiprocessors share; its step may be as coarse as a microsecond.
__device__ inline std::uint64_t clock_ns() {
  std::uint64_t ns;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(ns));
  return ns;
}

// ---- Rows ------------------------------------------------------------------------------------------------

/// 16 bytes that this kernel reads once. Coherent: peers write such rows, so never through the read-only
/// path.
__device__ inline uint4 load_row16(const std::byte* address) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(address)
               : "memory");
  return v;
}

__device__ inline void store_row16(std::byte* address, const uint4& v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(address), "r"(v.x), "r"(v.y), "r"(v.z),
               "r"(v.w)
               : "memory");
}

__device__ inline std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

/// 16 bytes of shared memory.
__device__ inline uint4 load_shared16(std::uint32_t address) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(address)
               : "memory");
  return v;
}

// ---- Conversions: to nearest even, subnormals kept --------------------------------------------------------

__device__ inline float float_of_half(std::uint16_t bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

/// Two elements in one word, `low` in its lower half.
__device__ inline std::uint32_t pack_half(float low, float high) {
  std::uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}
__device__ inline std::uint32_t pack_bfloat16(float low, float high) {
  std::uint32_t word;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
  return word;
}

// ---- Bulk copies (sm_90 and later) -----------------------------------------------------------------------

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
/// Whether this architecture has what follows.
constexpr bool kHasBulkCopies = true;

/// Orders what this thread has done to memory before what the copy engine does to it after the next barrier.
__device__ inline void fence_async_proxy() {
  asm volatile("fence.proxy.async;" ::: "memory");
}

/// Prepares a barrier in shared memory that one arrival, and the bytes it announces, complete.
__device__ inline void init_mbarrier(std::uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
}

/// Makes initialised barriers visible to the copy engine.
__device__ inline void fence_mbarrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/// The arrival, which announces that bulk loads of `num_bytes` will complete the barrier; they may have
/// begun.
__device__ inline void expect_bytes(std::uint64_t* barrier, std::uint32_t num_bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(num_bytes)
               : "memory");
}

/// Loads `num_bytes`, a multiple of 16, into shared memory; `barrier` counts them.
__device__ inline void bulk_load(void* to, const std::byte* from, std::uint32_t num_bytes,
                                 std::uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(to)),
      "l"(from), "r"(num_bytes), "r"(shared_address(barrier))
      : "memory");
}

/// Waits until the barrier has completed its phase of that parity.
__device__ inline void wait_mbarrier(std::uint64_t* barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "wait_mbarrier:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra wait_mbarrier;\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// Stores `num_bytes`, a multiple of 16, of shared memory; part of this thread's open group.
__device__ inline void bulk_store(std::byte* to, const void* from, std::uint32_t num_bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to),
               "r"(shared_address(from)), "r"(num_bytes)
               : "memory");
}

__device__ inline void close_bulk_group() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}

/// Until all but the last kPending groups of this thread have read their shared memory.
template <int kPending>
__device__ inline void wait_bulk_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kPending) : "memory");
}

/// Until everything that this thread has stored in bulk is complete, not only read; a publish() or a barrier
/// after it covers those stores.
__device__ inline void complete_bulk_stores() {
  asm volatile("cp.async.bulk.wait_group 0;" ::: "memory");
  fence_async_proxy();
}

#else
constexpr bool kHasBulkCopies = false;
// Named where there is no copy engine, called nowhere.
__device__ void fence_async_proxy();
__device__ void init_mbarrier(std::uint64_t* barrier);
__device__ void fence_mbarrier_init();
__device__ void expect_bytes(std::uint64_t* barrier, std::uint32_t num_bytes);
__device__ void bulk_load(void* to, const std::byte* from, std::uint32_t num_bytes, std::uint64_t* barrier);
__device__ void wait_mbarrier(std::uint64_t* barrier, std::uint32_t parity);
__device__ void bulk_store(std::byte* to, const void* from, std::uint32_t num_bytes);
__device__ void close_bulk_group();
template <int kPending>
__device__ void wait_bulk_read();
__device__ void complete_bulk_stores();
#endif

}  // namespace flexep::cuda
