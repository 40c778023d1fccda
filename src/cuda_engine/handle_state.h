// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <span>

#include "core/dispatch_state.h"
#include "cuda_engine/flight.h"

namespace flexep::cuda {

/// Writes what a fresh dispatch has counted into the handle.
void fill_counts(DispatchState& state, const Flight& dispatch);

/// [R], whether each rank offered one row per received token in a combine.
std::span<const std::int32_t> is_per_token(const Flight& combine);

/// {rows} of every rank, as the counts of a dispatch say.
ReceiveSize receive_size_of(const Flight& dispatch, int rank);

}  // namespace flexep::cuda
