// SPDX-License-Identifier: Apache-2.0
//
// The exchange at the start of every operation: each rank's header, and what all of them together mean.
#pragma once

#include "common/math.h"
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

/// What every kernel keeps of its exchange in shared memory.
struct ExchangeMemory {
  /// Messages that need more are put together in the mailbox.
  static constexpr std::size_t kReceivedBytes = 12288;

  /// This rank's; as bytes, since shared memory runs no constructors.
  alignas(ExchangeHeader) std::byte header_bytes[sizeof(ExchangeHeader)];
  alignas(ExchangeHeader) std::byte received_bytes[kReceivedBytes];
  Judgement judgement;
  MissingRanks missing;

  __device__ ExchangeHeader& header() { return *reinterpret_cast<ExchangeHeader*>(header_bytes); }
};

constexpr int kHeaderWords = sizeof(ExchangeHeader) / sizeof(std::int32_t);

/// All ranks' messages of an exchange: as they come, in this rank's mailbox, and put together again after
/// await_messages(). Every block does so for itself, in the mailbox all with the same outcome.
class Messages {
 public:
  /// @param num_words  that are expected after each header
  __device__ Messages(const Operation& operation, ExchangeMemory& memory, int num_words)
      : exchange_(static_cast<std::uint32_t>(operation.exchange)),
        slots_(operation.mailbox + operation.peers.mailbox.slot(0, operation.exchange)),
        slot_bytes_(operation.peers.mailbox.slot_bytes()),
        message_bytes_(align_up(sizeof(ExchangeHeader) + static_cast<std::size_t>(num_words) * 4,
                                alignof(ExchangeHeader))) {
    const std::size_t num_bytes = static_cast<std::size_t>(operation.peers.num_ranks) * message_bytes_;
    messages_ = num_bytes <= ExchangeMemory::kReceivedBytes
                    ? memory.received_bytes
                    : operation.mailbox + operation.peers.mailbox.unpacked(operation.exchange);
  }

  __device__ ExchangeHeader& header(int rank) const {
    return *reinterpret_cast<ExchangeHeader*>(messages_ + static_cast<std::size_t>(rank) * message_bytes_);
  }
  /// int32 [R + E]
  __device__ std::int32_t* counts(int rank) const {
    return reinterpret_cast<std::int32_t*>(&header(rank) + 1);
  }

  /// Word i of a message as it comes.
  __device__ const MessageWord* incoming(int rank, int i) const {
    return reinterpret_cast<const MessageWord*>(slots_ + static_cast<std::size_t>(rank) * slot_bytes_) + i;
  }
  /// Until `word`, loaded from incoming(rank, i), is of this exchange. @return false when the deadline
  /// passed.
  __device__ bool await(int rank, int i, MessageWord& word, const Deadline& deadline) const {
    while (word.exchange != exchange_) {
      if (deadline.has_passed()) return false;
      word = load_word(incoming(rank, i));
    }
    return true;
  }

 private:
  std::uint32_t exchange_;
  const std::byte* slots_;
  std::size_t slot_bytes_;
  std::size_t message_bytes_;
  std::byte* messages_;
};

/// Copies the header that the host passed into shared memory, where a kernel may add to it.
__device__ inline void take_header(ExchangeMemory& memory, const ExchangeHeader& header) {
  constexpr int kWords = sizeof(ExchangeHeader) / sizeof(std::uint64_t);
  const auto* from = reinterpret_cast<const std::uint64_t*>(&header);
  auto* to = reinterpret_cast<std::uint64_t*>(memory.header_bytes);
#pragma unroll 1
  for (int i = thread_in_block(); i < kWords; i += kNumThreads) to[i] = from[i];
  __syncthreads();
}

/// What this kernel has stored, as far as the block has seen it at a barrier, becomes part of what the
/// block's next message covers: 1.5 us, where a message itself takes 1.3 (H100, ranks on one GPU). What
/// earlier kernels have stored needs nothing. The speaker alone calls it.
__device__ inline void cover_with_message() {
  if (thread_in_block() < kHeaderWords) release_words();
}

/// Stores a message into every rank's mailbox, beginning with the rank after this one: the header, and
/// `num_words` words after it, of which word_at(i) is the i-th. Pairs with await_messages(). The speaker
/// alone calls it.
template <typename WordAt>
__device__ void send_message(const Operation& operation, ExchangeHeader& header, int num_words,
                             WordAt word_at) {
  const Peers& peers = operation.peers;
  if (thread_in_block() == 0) header.num_words = num_words;
  __syncthreads();
  const std::size_t slot = peers.mailbox.slot(peers.rank, operation.exchange);
  const auto* header_words = reinterpret_cast<const std::uint32_t*>(&header);
#pragma unroll 1
  for (int i = thread_in_block(); i < kHeaderWords + num_words; i += kNumThreads) {
    const MessageWord word{
        i < kHeaderWords ? header_words[i] : static_cast<std::uint32_t>(word_at(i - kHeaderWords)),
        static_cast<std::uint32_t>(operation.exchange)};
    for (int r = 1; r <= peers.num_ranks; ++r) {
      const int to = peers.rank + r < peers.num_ranks ? peers.rank + r : peers.rank + r - peers.num_ranks;
      store_word(reinterpret_cast<MessageWord*>(peers.mailboxes[to] + slot) + i, word);
    }
  }
}

/// One word of each rank's header for a thread; what the ranks have stored before is visible then.
__device__ inline bool await_headers(const Peers& peers, const Messages& messages, MissingRanks& missing,
                                     const Deadline& deadline) {
  bool is_missing = false;
#pragma unroll 1
  for (int i = thread_in_block(); i < peers.num_ranks * kHeaderWords; i += kNumThreads) {
    const int rank = i / kHeaderWords;
    const int at = i % kHeaderWords;
    MessageWord word = load_word(messages.incoming(rank, at));
    if (messages.await(rank, at, word, deadline)) {
      reinterpret_cast<std::uint32_t*>(&messages.header(rank))[at] = word.value;
    } else {
      is_missing = true;
      missing.add(rank);
    }
  }
  return __syncthreads_or(is_missing) == 0;
}

/// The words after the headers, as many as are expected or were sent: a thread takes one of each rank.
__device__ inline bool await_counts(const Peers& peers, const Messages& messages, int num_words,
                                    MissingRanks& missing, const Deadline& deadline) {
  constexpr int kInFlight = 8;
  bool is_missing = false;
#pragma unroll 1
  for (int i = thread_in_block(); i < num_words; i += kNumThreads) {
    for (int first = 0; first < peers.num_ranks; first += kInFlight) {
      MessageWord words[kInFlight];
#pragma unroll
      for (int j = 0; j < kInFlight; ++j)
        words[j] = load_word_alone(messages.incoming(min(first + j, peers.num_ranks - 1), kHeaderWords + i));
#pragma unroll
      for (int j = 0; j < kInFlight; ++j) {
        const int rank = first + j;
        if (rank >= peers.num_ranks || i >= messages.header(rank).num_words) continue;
        if (messages.await(rank, kHeaderWords + i, words[j], deadline)) {
          messages.counts(rank)[i] = static_cast<std::int32_t>(words[j].value);
        } else {
          is_missing = true;
          missing.add(rank);
        }
      }
    }
  }
  return __syncthreads_or(is_missing) == 0;
}

/// Waits for all ranks' messages, and for `num_words` words after each header. Every block does so for
/// itself.
/// @return false when a rank did not come.
__device__ inline bool await_messages(const Operation& operation, ExchangeMemory& memory, int num_words) {
  const Messages messages(operation, memory, num_words);
  memory.missing.clear();
  const Deadline deadline(operation.peers.timeout_ns);
  return await_headers(operation.peers, messages, memory.missing, deadline) &&
         (num_words == 0 || await_counts(operation.peers, messages, num_words, memory.missing, deadline));
}

/// Does everybody take part, and does everybody mean the same?
__device__ inline void compare_headers(const Peers& peers, const Messages& messages, Judgement& judgement) {
  constexpr int kNumFields = ExchangeHeader::kNumFields;
  const ExchangeHeader& first = messages.header(0);
#pragma unroll 1
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
