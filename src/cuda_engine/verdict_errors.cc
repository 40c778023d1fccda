// SPDX-License-Identifier: Apache-2.0
#include "cuda_engine/verdict_errors.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <bit>
#include <span>
#include <vector>

#include "core/agreement.h"
#include "flexep/error.h"

namespace flexep::cuda {
namespace {

const std::byte* part(const OperationResult& result, std::size_t offset) {
  return reinterpret_cast<const std::byte*>(&result) + offset;
}

std::span<const ExchangeHeader> headers_of(const OperationResult& result, const ResultLayout& layout) {
  return {reinterpret_cast<const ExchangeHeader*>(part(result, layout.headers())), layout.ranks()};
}

// The texts are those of count_routing and require_finite_weights.
std::string reason_of(const OperationName& operation, int rank, const ExchangeHeader& header,
                      const char* text) {
  const BadId& id = header.bad_id;
  switch (header.refusal) {
    case Refusal::kNone:
      return {};
    case Refusal::kText:
      return text;
    case Refusal::kIdOutOfRange:
      return fmt::format("topk_idx on rank {}: token {}, column {} is {}, outside [-1, {})", rank, id.token,
                         id.column, id.value, operation.num_experts);
    case Refusal::kIdRepeated:
      return fmt::format("topk_idx on rank {}: token {} names expert {} twice, in columns {} and {}", rank,
                         id.token, id.value, id.first_column, id.column);
    case Refusal::kTooManyTokens:
      return fmt::format("rank {} has {} tokens, more than there is room for", rank, id.value);
    case Refusal::kInvalidHandle:
      return fmt::format("the dispatch that made the handle of rank {} failed", rank);
    case Refusal::kWeightNotFinite:
      return fmt::format("topk_weights on rank {}: token {}, column {} is {}", rank, id.token, id.column,
                         std::bit_cast<double>(id.value));
  }
  return {};
}

const char* argument_of(Refusal refusal) {
  switch (refusal) {
    case Refusal::kIdOutOfRange:
    case Refusal::kIdRepeated:
      return "topk_idx";
    case Refusal::kWeightNotFinite:
      return "topk_weights";
    case Refusal::kTooManyTokens:
      return "num_max_tokens_per_rank";
    case Refusal::kNone:
    case Refusal::kText:
    case Refusal::kInvalidHandle:
      break;
  }
  return "handle";
}

std::exception_ptr refused(const OperationName& operation, const OperationResult& result,
                           const ResultLayout& layout) {
  const auto headers = headers_of(result, layout);
  const auto* text = reinterpret_cast<const char*>(part(result, layout.text()));
  // Who is wrong says so itself, whoever else is.
  const ExchangeHeader& own = headers[static_cast<std::size_t>(operation.rank)];
  if (own.refusal != Refusal::kNone) {
    return std::make_exception_ptr(
        InvalidArgument(argument_of(own.refusal), reason_of(operation, operation.rank, own, text)));
  }
  const ExchangeHeader& other = headers[static_cast<std::size_t>(result.culprit)];
  return std::make_exception_ptr(
      PeerError(result.culprit, fmt::format("{}: rank {} refused: {}", operation.name, result.culprit,
                                            reason_of(operation, result.culprit, other, text))));
}

const char* name_of(OperationKind kind) {
  switch (kind) {
    case OperationKind::kNone:
      break;
    case OperationKind::kDispatch:
      return "dispatch";
    case OperationKind::kCombine:
      return "combine";
    case OperationKind::kBarrier:
      return "barrier";
  }
  return "nothing";
}

std::exception_ptr mismatch(const OperationName& operation, const OperationResult& result,
                            const ResultLayout& layout) {
  std::vector<std::int64_t> words;
  for (const ExchangeHeader& header : headers_of(result, layout))
    words.push_back(header.fingerprint[result.culprit]);
  if (result.culprit > 0)
    return mismatch_error(operation.name, static_cast<Field>(result.culprit - 1), words);
  std::vector<std::string> names;
  for (const std::int64_t word : words) names.emplace_back(name_of(static_cast<OperationKind>(word)));
  const auto what = fmt::format("{}: ranks call different operations: {} (by rank)", operation.name,
                                fmt::join(names, ", "));
  return std::make_exception_ptr(CollectiveMismatch("operation", std::move(names), what));
}

std::exception_ptr timed_out(const OperationName& operation, const OperationResult& result, int num_ranks) {
  std::vector<int> missing;
  for (int rank = 0; rank < num_ranks; ++rank) {
    if ((result.missing[rank / 64] >> (rank % 64) & 1u) != 0) missing.push_back(rank);
  }
  const auto what = fmt::format("{} (operation {}): rank {} {} from rank(s) {} in time", operation.name,
                                operation.sequence_number, operation.rank,
                                result.missing_phase == 0 ? "did not hear" : "was not told of the end",
                                fmt::join(missing, ", "));
  return std::make_exception_ptr(
      TimeoutError(std::move(missing), std::string(operation.name), operation.sequence_number, what));
}

}  // namespace

std::exception_ptr error_of_verdict(const OperationName& operation, const OperationResult& result,
                                    const ResultLayout& layout) {
  switch (result.verdict) {
    case Verdict::kGo:
    case Verdict::kDoesNotFit:
      return nullptr;
    case Verdict::kRefused:
      return refused(operation, result, layout);
    case Verdict::kMismatch:
      return mismatch(operation, result, layout);
    case Verdict::kTooLarge: {
      const auto what = result.culprit < layout.num_ranks
                            ? fmt::format("rank {} would receive more than 2^31 - 1 rows", result.culprit)
                            : fmt::format("{} ranks of at most {} tokens have no 32-bit global token index",
                                          layout.num_ranks, result.num_max_tokens_per_rank);
      return std::make_exception_ptr(InvalidArgument("num_max_tokens_per_rank", what));
    }
    case Verdict::kTimedOut:
      return timed_out(operation, result, layout.num_ranks);
    case Verdict::kUnreachable:
      return std::make_exception_ptr(
          TransportError(fmt::format("{}: rank {} names memory that rank {} has not mapped", operation.name,
                                     result.culprit, operation.rank),
                         {result.culprit}));
    case Verdict::kPoisoned:
    case Verdict::kPending:
      break;
  }
  return std::make_exception_ptr(TransportError(
      fmt::format("{}: this buffer is unusable since an earlier failure of its group", operation.name)));
}

std::exception_ptr error_of_outcome(const OperationName& operation, const OperationResult& result,
                                    int num_ranks) {
  switch (result.outcome) {
    case Outcome::kDone:
      return nullptr;
    case Outcome::kTimedOut:
      return timed_out(operation, result, num_ranks);
    case Outcome::kPending:
      break;
  }
  return std::make_exception_ptr(CudaError(fmt::format("{} (operation {}): its kernel ended without a result",
                                                       operation.name, operation.sequence_number)));
}

}  // namespace flexep::cuda
