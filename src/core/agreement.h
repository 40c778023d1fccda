// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <span>
#include <string>
#include <vector>

#include "core/arena.h"
#include "transport/transport.h"

namespace flexep {

/// What all ranks must pass alike, compared in every exchange, in this order.
enum class Field {
  kHandle,
  kNumExperts,
  kNumTopk,
  kTopkIdx,  ///< dtype
  kExpertAlignment,
  kDoExpand,
  kDType,
  kHidden,
  kTopkWeights,  ///< optional_field()
  kScales,       ///< optional_field()
  kNumScalePacks,
  kScalesAreColMajor,
  kDoCpuSync,
  kAllowMultipleReduction,
  kAllowHybridMode,
};
inline constexpr std::size_t kNumFields = 15;

/// The error of ranks that have different values, by rank, in a field.
std::exception_ptr mismatch_error(std::string_view operation, Field field,
                                  std::span<const std::int64_t> values);

/// The head of what a rank says in an exchange. Travels as it is.
struct ExchangeHeader {
  std::array<std::int64_t, kNumFields> fingerprint{};

  // Construction.
  std::int64_t max_staging_bytes = 0;

  // Dispatch: where this rank's output would go and how much fits there.
  ArenaAddress region;
  std::uint64_t region_bytes = 0;
  std::int32_t num_max_tokens_per_rank = 0;
  std::int32_t max_recv_tokens = 0;

  // Combine: where this rank's rows are.
  ArenaAddress x;
  ArenaAddress topk_weights;
  std::int32_t x_is_per_token = 0;

  std::int32_t is_refusal = 0;  ///< the reason follows the header in place of the counts

  std::int64_t& operator[](Field field) { return fingerprint[static_cast<std::size_t>(field)]; }
};

/// What a rank says: its header, and its counts where the exchange carries any.
struct ExchangeMessage {
  ExchangeHeader header;
  std::span<const std::int32_t> counts;
};

/// What all ranks said, by rank. The counts are views that stay valid until the transport's next exchange.
struct ExchangeResult {
  std::vector<ExchangeHeader> headers;
  std::vector<std::span<const std::int32_t>> counts;
};

/// The start of every operation: ranks tell each other what they are about to do, so that a mistake of one is
/// an error of all.
class Agreement {
 public:
  explicit Agreement(Transport& transport) : transport_(transport) {}

  /// Runs `prepare`, which returns this rank's ExchangeMessage or throws, and exchanges the outcome. Its
  /// error is sent to the others before it is rethrown here. @throws PeerError for another rank's error,
  /// CollectiveMismatch, and as Transport.
  template <typename Prepare>
  ExchangeResult exchange(const Operation& operation, Prepare prepare) {
    return accept(operation, run_or_refuse(operation, prepare));
  }

  /// Runs `step` and waits until all ranks have come as far: the end of an operation, of which ranks have
  /// nothing to say but that all went well. Errors as in exchange().
  template <typename Step>
  void conclude(const Operation& operation, Step step) {
    run_or_refuse(operation, step);
    hear_of_refusals(operation);
  }

 private:
  template <typename Step>
  auto run_or_refuse(const Operation& operation, Step& step) {
    try {
      return step();
    } catch (const std::exception& error) {
      refuse(operation, error.what());
      throw;
    } catch (...) {
      refuse(operation, "an exception of unknown type");
      throw;
    }
  }
  void hear_of_refusals(const Operation& operation);
  void refuse(const Operation& operation, std::string_view reason);
  ExchangeResult accept(const Operation& operation, const ExchangeMessage& message);
  std::span<const std::byte> compose(const ExchangeHeader& header, std::span<const std::byte> tail);

  Transport& transport_;
  std::vector<std::byte> outgoing_;
};

}  // namespace flexep
