// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <memory>
#include <optional>

#include "core/dispatch_state.h"
#include "core/routes.h"
#include "flexep/elastic_buffer.h"
#include "routing/output_layout.h"
#include "routing/routing_shape.h"

namespace flexep {

/// Who resolves a request.
struct RankContext {
  int rank = 0;
  int num_ranks = 1;
  int default_num_max_tokens_per_rank = 0;  ///< the largest of all ranks' configurations
  int default_num_sms = 1;
  int num_allocated_qps = 0;
  Device device;  ///< whose memory tensors must be
  Routes routes;
};

/// Validated dispatch arguments with every default filled in.
struct DispatchRequest {
  RoutingShape shape;
  OutputFormat format;
  int num_tokens = 0;
  int hidden = 0;
  DType dtype = DType::kBFloat16;
  std::optional<DType> weight_dtype;
  std::optional<DType> sf_dtype;
  DType idx_dtype = DType::kInt64;
  int num_max_tokens_per_rank = 0;  ///< this rank's part in the agreement
  bool do_cpu_sync = true;          ///< of a cached dispatch: its handle's
  int num_sms = 1;
  bool do_zero_padding = false;
};

/// @throws InvalidArgument that names the argument, its value and this rank.
DispatchRequest resolve_dispatch(const DispatchArgs& args, const RankContext& context);

/// The state of a fresh dispatch's handle as far as the request decides it, whatever plans the rest.
std::shared_ptr<DispatchState> make_dispatch_state(const DispatchRequest& request, int rank, std::int64_t id);

/// @throws InvalidArgument when the rank has more tokens than num_max_tokens_per_rank.
void require_tokens_fit(const DispatchRequest& request, int rank);

/// The part that an optional tensor has in a fingerprint: 0 = absent, else 1 + dtype.
inline std::int64_t optional_field(std::optional<DType> dtype) {
  return dtype ? 1 + static_cast<std::int64_t>(*dtype) : 0;
}

/// @throws InvalidArgument when the rows of the handle's dispatch are not there: it is still running, or it
/// failed.
void require_rows_have_arrived(const DispatchHandle& handle, int rank);

/// Validated combine arguments with every default filled in.
struct CombineRequest {
  int hidden = 0;
  DType dtype = DType::kBFloat16;
  std::size_t row_bytes = 0;
  std::optional<DType> weight_dtype;
  int num_sms = 1;
};

/// @throws InvalidArgument that names the argument, its value and this rank.
CombineRequest resolve_combine(const CombineArgs& args, const RankContext& context);

}  // namespace flexep
