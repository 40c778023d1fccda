// SPDX-License-Identifier: Apache-2.0
//
// What a kernel tells its host: stores into pinned memory, by the speaker alone.
#pragma once

#include "kernels/cuda/exchange.cuh"

namespace flexep::cuda {

/// Calls report(OperationResult&) for the places where an operation that comes to `verdict` is reported.
template <typename Report>
__device__ void for_each_report(const Reports& reports, bool is_failure, Report report) {
  report(*reports.result);
  OperationResult* failure = reports.first_failure;
  if (!is_failure || failure == nullptr) return;
  const bool is_first = __syncthreads_or(thread_in_block() == 0 && !has_arrived(&failure->ready, 1)) != 0;
  if (!is_first) return;
  if (thread_in_block() == 0) failure->tag = reports.tag;
  report(*failure);
}

template <typename T>
__device__ T* array_of(OperationResult& result, std::size_t offset) {
  return reinterpret_cast<T*>(reinterpret_cast<std::byte*>(&result) + offset);
}

__device__ inline void copy_words(void* to, const void* from, std::size_t num_bytes) {
  const auto num_words = static_cast<int>(num_bytes / sizeof(std::uint32_t));
#pragma unroll 1
  for (int i = thread_in_block(); i < num_words; i += kNumThreads)
    static_cast<std::uint32_t*>(to)[i] = static_cast<const std::uint32_t*>(from)[i];
}

/// Publishes the result. What the crew has stored into it before is covered.
__device__ inline void make_ready(const Operation& operation, OperationResult& result, const Crew& crew) {
  crew.synchronize();
  // The last thread: the store waits for the host's memory.
  if (crew.thread == crew.num_threads - 1) publish(&result.ready, operation.number);
}
__device__ inline void make_ready(const Operation& operation, OperationResult& result) {
  make_ready(operation, result, Crew{thread_in_block(), kNumThreads, 0});
}

/// The headers of all ranks, and the text of the first that refused.
__device__ inline void report_headers(const Operation& operation, const Messages& messages, int refused_rank,
                                      OperationResult& result) {
  const ResultLayout& layout = operation.reports.layout;
  auto* headers = array_of<ExchangeHeader>(result, layout.headers());
#pragma unroll 1
  for (int r = 0; r < operation.peers.num_ranks; ++r)
    copy_words(headers + r, &messages.header(r), sizeof(ExchangeHeader));
  if (refused_rank < 0) return;
  const int num_words = min(messages.header(refused_rank).num_words,
                            static_cast<int>(MailboxLayout::kMaxTextBytes / sizeof(std::uint32_t)));
  const Deadline deadline(operation.peers.timeout_ns);
  auto* text = array_of<std::uint32_t>(result, layout.text());
#pragma unroll 1
  for (int i = thread_in_block(); i < num_words; i += kNumThreads) {
    MessageWord word = load_word(messages.incoming(refused_rank, kHeaderWords + i));
    text[i] = messages.await(refused_rank, kHeaderWords + i, word, deadline) ? word.value : 0;
  }
}

/// Everybody's headers are here, and this is what they mean.
__device__ inline void report_failed_verdict(const Operation& operation, const Messages& messages,
                                             const Judgement& judgement) {
  const Verdict verdict = judgement.verdict();
  const int culprit = judgement.culprit();
  const bool is_failure = verdict != Verdict::kDoesNotFit;  // which only asks for another launch
  for_each_report(operation.reports, is_failure, [&](OperationResult& result) {
    report_headers(operation, messages, verdict == Verdict::kRefused ? culprit : -1, result);
    if (thread_in_block() == 0) {
      result.verdict = verdict;
      result.culprit = culprit;
      result.outcome = Outcome::kDone;
    }
    make_ready(operation, result);
  });
}

/// A wait for other ranks has timed out.
__device__ inline void report_timeout(const Operation& operation, const MissingRanks& missing, int phase,
                                      Verdict verdict) {
  for_each_report(operation.reports, true, [&](OperationResult& result) {
    copy_words(result.missing, missing.words, sizeof(result.missing));
    if (thread_in_block() == 0) {
      result.verdict = verdict;
      result.outcome = Outcome::kTimedOut;
      result.missing_phase = phase;
    }
    make_ready(operation, result);
  });
}

/// An earlier operation has timed out: this one does not begin.
__device__ inline void report_poisoned(const Operation& operation) {
  for_each_report(operation.reports, true, [&](OperationResult& result) {
    if (thread_in_block() == 0) {
      result.verdict = Verdict::kPoisoned;
      result.outcome = Outcome::kTimedOut;
    }
    make_ready(operation, result);
  });
}

/// The verdict of an operation that goes. Its outcome is that of a good end, and a bad end overwrites it: at
/// the end, a store into the host's memory would hold up whatever the stream brings next.
__device__ inline void report_go(OperationResult& result) {
  result.verdict = Verdict::kGo;
  result.outcome = Outcome::kDone;
}

}  // namespace flexep::cuda
