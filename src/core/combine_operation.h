// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <array>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "core/dispatch_state.h"
#include "core/engine.h"

namespace flexep {

/// One combine on one rank, the mirror image of DispatchOperation.
class CombineOperation {
 public:
  /// Validates the arguments and makes the outputs. What is wrong with them is not thrown here but by run(),
  /// which tells the other ranks.
  /// @param refusal  what is wrong already, if something is.
  CombineOperation(Engine& engine, const CombineArgs& args, std::uint64_t sequence_number,
                   const std::exception_ptr& refusal);

  /// Agrees with the other ranks, reads and sums the rows; returns when everybody has read this rank's.
  void run();

  bool is_refused() const { return refusal_ != nullptr; }
  const CombineResult& result() const& { return result_; }
  /// After run().
  CombineResult result() && { return std::move(result_); }

 private:
  /// Memory that the other ranks may read: where it is, and the block that holds it if it had to be staged.
  struct Offer {
    ArenaAddress address;
    Arena::Block staged;
    const std::byte* data = nullptr;
    bool is_per_token = false;
  };

  void make_outputs();
  std::optional<Offer> offer_in_place(const std::byte* data, std::size_t num_bytes);
  Offer offer(const std::byte* data, std::size_t num_bytes);
  Offer offer_rows();
  void reduce_into(Offer& rows);
  ExchangeMessage announce() const;
  std::vector<PullSource> find_sources(const ExchangeResult& agreed);
  PullJob own_tokens(const std::vector<PullSource>& sources) const;
  void pull(const std::vector<PullSource>& sources);
  void prepare_crossing();
  void cross(const ExchangeResult& agreed);
  void meter_crossing(const std::vector<PullSource>& sources, std::int64_t num_rows_received);

  const DispatchState& state() const { return args_.handle.state(); }

  Engine& engine_;
  CombineArgs args_;
  std::uint64_t sequence_number_;
  CombineRequest request_;
  std::exception_ptr refusal_;
  std::array<std::shared_ptr<void>, 2> registrations_;  ///< of the arguments' memory, held until the end
  Offer rows_;
  Offer weights_;
  Waves waves_;                   ///< of rows that cross domains
  std::byte* staging_ = nullptr;  ///< for them
  CombineResult result_;
};

}  // namespace flexep
