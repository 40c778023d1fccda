// SPDX-License-Identifier: Apache-2.0
#pragma once

/// Everything of flexep's core: groups of ranks, tensors, ElasticBuffer, collectives over rows. The MoE layer
/// is in flexep/moe/, the oracle in flexep/reference.h.

#include "flexep/cast.h"
#include "flexep/communicator.h"
#include "flexep/counters.h"
#include "flexep/dispatch_handle.h"
#include "flexep/elastic_buffer.h"
#include "flexep/env.h"
#include "flexep/error.h"
#include "flexep/event.h"
#include "flexep/interruption.h"
#include "flexep/memory_model.h"
#include "flexep/plan_model.h"
#include "flexep/registered_memory.h"
#include "flexep/row_collectives.h"
#include "flexep/tensor.h"
#include "flexep/types.h"

namespace flexep {

/// "0.1.0".
const char* version();

}  // namespace flexep
