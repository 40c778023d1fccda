// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "core/dispatch_state.h"
#include "cuda_engine/flight.h"

namespace flexep::cuda {

/// Writes what a fresh dispatch has counted into the handle.
void fill_counts(DispatchState& state, const Flight& dispatch);

/// {rows} of every rank, as the counts of a dispatch say.
ReceiveSize receive_size_of(const Flight& dispatch, int rank);

}  // namespace flexep::cuda
