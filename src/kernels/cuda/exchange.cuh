// SPDX-License-Identifier: Apache-2.0
//
// The exchange at the start of every operation: each rank's header, and what all of them together mean.
#pragma once

#include "kernels/cuda/operation.cuh"

namespace flexep::cuda {

/// The verdict as one number, so that the worst finding of all threads is the smallest: see Verdict.
struct Judgement {
  static constexpr unsigned long long kGo = ~0ull;
  unsigned long long worst;

  __device__ void reset() {
    if (thread_in_block() == 0) worst = kGo;
    __syncthreads();
  }
  __device__ void find(Verdict verdict, int culprit) {
    atomicMin(&worst, static_cast<unsigned long long>(verdict) << 32 | static_cast<unsigned int>(culprit));
  }
  /// What all threads have found so far. Collective over the block: nobody finds more before all have read
  /// it.
  __device__ Verdict settle() const {
    __syncthreads();
    const Verdict settled = verdict();
    __syncthreads();
    return settled;
  }
  __device__ Verdict verdict() const {
    return worst == kGo ? Verdict::kGo : static_cast<Verdict>(worst >> 32);
  }
  __device__ int culprit() const { return worst == kGo ? 0 : static_cast<int>(worst & 0xFFFFFFFFu); }
};

/// Ranks whose headers are copied into shared memory; those of more are read where they are.
constexpr int kMaxLocalHeaders = 16;

/// What every kernel keeps of its exchange in shared memory.
struct ExchangeMemory {
  /// This rank's; as bytes, since shared memory runs no constructors.
  alignas(ExchangeHeader) std::byte header_bytes[sizeof(ExchangeHeader)];
  alignas(ExchangeHeader) std::byte received_bytes[kMaxLocalHeaders * sizeof(ExchangeHeader)];
  Judgement judgement;
  MissingRanks missing;

  __device__ ExchangeHeader& header() { return *reinterpret_cast<ExchangeHeader*>(header_bytes); }
};

/// All ranks' messages of an exchange, in this rank's mailbox.
class Messages {
 public:
  __device__ Messages(const Operation& operation, const ExchangeMemory& memory)
      : local_headers_(operation.peers.num_ranks <= kMaxLocalHeaders
                           ? reinterpret_cast<const ExchangeHeader*>(memory.received_bytes)
                           : nullptr),
        slots_(operation.mailbox + operation.peers.mailbox.slot(0, operation.exchange)),
        slot_bytes_(operation.peers.mailbox.slot_bytes()) {}

  __device__ const ExchangeHeader& header(int rank) const {
    return local_headers_ != nullptr ? local_headers_[rank] : *message(rank);
  }
  __device__ const ExchangeHeader* message(int rank) const {
    return reinterpret_cast<const ExchangeHeader*>(slots_ + static_cast<std::size_t>(rank) * slot_bytes_);
  }
  /// int32 [R + E]
  __device__ const std::int32_t* counts(int rank) const {
    return reinterpret_cast<const std::int32_t*>(message(rank) + 1);
  }
  __device__ const char* text(int rank) const { return reinterpret_cast<const char*>(message(rank) + 1); }

 private:
  const ExchangeHeader* local_headers_;
  const std::byte* slots_;
  std::size_t slot_bytes_;
};

/// Copies the header that the host passed into shared memory, where a kernel may add to it.
__device__ inline void take_header(ExchangeMemory& memory, const ExchangeHeader& header) {
  constexpr int kWords = sizeof(ExchangeHeader) / sizeof(std::uint64_t);
  const auto* from = reinterpret_cast<const std::uint64_t*>(&header);
  auto* to = reinterpret_cast<std::uint64_t*>(memory.header_bytes);
  for (int i = thread_in_block(); i < kWords; i += kNumThreads) to[i] = from[i];
  __syncthreads();
}

/// Stores a message into every rank's mailbox and publishes it: the header, and `num_words` words after it,
/// of which word_at(i) is the i-th. The speaker alone calls it.
template <typename WordAt>
__device__ void send_message(const Operation& operation, const ExchangeHeader& header, int num_words,
                             WordAt word_at) {
  const Peers& peers = operation.peers;
  const std::size_t slot = peers.mailbox.slot(peers.rank, operation.exchange);
  constexpr int kHeaderWords = sizeof(ExchangeHeader) / sizeof(std::int32_t);
  const auto* header_words = reinterpret_cast<const std::int32_t*>(&header);
  for (int i = thread_in_block(); i < kHeaderWords + num_words; i += kNumThreads) {
    const std::int32_t word = i < kHeaderWords ? header_words[i] : word_at(i - kHeaderWords);
    for (int r = 0; r < peers.num_ranks; ++r)
      reinterpret_cast<std::int32_t*>(peers.mailboxes[r] + slot)[i] = word;
  }
  publish_to_all(peers, operation.exchange, [&](int source) { return peers.mailbox.header_signal(source); });
}

/// Waits for all ranks' messages. Every block does so for itself. @return false when a rank did not come.
__device__ inline bool await_messages(const Operation& operation, ExchangeMemory& memory) {
  const Peers& peers = operation.peers;
  if (!await_all(peers, operation.exchange, memory.missing,
                 [&](int source) { return peers.mailbox.header_signal(source); }))
    return false;
  if (peers.num_ranks > kMaxLocalHeaders) return true;
  constexpr int kWords = sizeof(ExchangeHeader) / sizeof(std::uint64_t);
  const Messages messages(operation, memory);
  auto* to = reinterpret_cast<std::uint64_t*>(memory.received_bytes);
  for (int i = thread_in_block(); i < peers.num_ranks * kWords; i += kNumThreads)
    to[i] = reinterpret_cast<const std::uint64_t*>(messages.message(i / kWords))[i % kWords];
  __syncthreads();
  return true;
}

/// Does everybody take part, and does everybody mean the same?
__device__ inline void compare_headers(const Peers& peers, const Messages& messages, Judgement& judgement) {
  constexpr int kNumFields = ExchangeHeader::kNumFields;
  const ExchangeHeader& first = messages.header(0);
  for (int i = thread_in_block(); i < peers.num_ranks * (kNumFields + 1); i += kNumThreads) {
    const int rank = i / (kNumFields + 1);
    const int field = i % (kNumFields + 1);
    const ExchangeHeader& header = messages.header(rank);
    if (field == kNumFields) {
      if (header.refusal != Refusal::kNone) judgement.find(Verdict::kRefused, rank);
    } else if (header.fingerprint[field] != first.fingerprint[field]) {
      judgement.find(Verdict::kMismatch, field);
    }
  }
}

/// Where an address of rank `rank` lies for this rank; null where it is not mapped.
__device__ inline std::byte* resolve(const Peers& peers, int rank, const HeaderAddress& address) {
  if (address.segment < 0 || address.segment >= peers.num_segments + peers.num_registered) return nullptr;
  const std::int64_t registered = address.segment - peers.num_segments;
  std::byte* segment =
      registered < 0 ? peers.segments[static_cast<std::int64_t>(rank) * peers.num_segments + address.segment]
                     : peers.registered[static_cast<std::int64_t>(rank) * peers.num_registered + registered];
  return segment == nullptr ? nullptr : segment + address.offset;
}

}  // namespace flexep::cuda
