// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <vector>

#include "core/dispatch_state.h"
#include "core/engine.h"

namespace flexep {

/// One dispatch on one rank, from the exchange of counts to the arrival of the rows.
class DispatchOperation {
 public:
  DispatchOperation(Engine& engine, const DispatchArgs& args, std::uint64_t sequence_number)
      : engine_(engine), args_(args), sequence_number_(sequence_number) {}

  /// Agrees with the other ranks, plans every slot, and makes the outputs; result() holds from here on, its
  /// rows arrive later.
  void agree_and_place();
  /// Stores this rank's rows; returns when everybody's are here.
  void move();

  const DispatchResult& result() const { return result_; }

 private:
  ExchangeResult agree();
  ExchangeMessage announce(std::span<const std::int32_t> counts) const;
  ExchangeResult drop(const ExchangeResult& agreed, std::span<const std::int32_t> limits);
  void plan(const ExchangeResult& agreed);
  void keep_ids(DispatchState& state) const;
  bool all_fit(const ExchangeResult& agreed) const;
  ExchangeResult grow(const ExchangeResult& agreed);
  void find_targets(const ExchangeResult& agreed);
  void make_outputs();
  template <typename Step>
  void attempt(Step step);
  std::size_t bytes_needed(int rank) const;
  void push();
  void zero_gaps() const;
  void add_stats() const;

  const DispatchState& state() const { return result_.handle.state(); }
  const ReceiveSize& size_of(int rank) const { return state().receive_sizes[static_cast<std::size_t>(rank)]; }

  Engine& engine_;
  DispatchArgs args_;
  std::uint64_t sequence_number_;
  DispatchRequest request_;
  std::vector<std::int32_t> num_routed_tokens_;  ///< [El], before drops; empty without
  Tensor ids_;                                   ///< int64 [T, K], contiguous; unless the dispatch is cached
  std::shared_ptr<DispatchState> fresh_state_;   ///< what result_.handle holds, unless the dispatch is cached
  Arena::Block region_;         ///< where this rank's output goes, until it is cut into tensors
  std::exception_ptr failure_;  ///< of a step between exchanges, which the next exchange tells the others
  std::vector<PushTarget> targets_;  ///< where this rank's rows go
  DispatchResult result_;
};

}  // namespace flexep
