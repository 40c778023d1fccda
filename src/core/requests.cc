// SPDX-License-Identifier: Apache-2.0
#include "core/requests.h"

#include <algorithm>
#include <limits>

#include "common/check.h"

namespace flexep {
namespace {

constexpr std::size_t kRowGranularity = 16;
constexpr int kMaxExperts = 65536;
constexpr int kMaxTopk = 1024;
constexpr int kMaxAlignment = 1 << 16;
constexpr int kMaxSms = 1024;

void check_device(const char* name, const Tensor& tensor, const RankContext& context) {
  if (!tensor || tensor.device() == context.device) return;
  throw InvalidArgument(
      name, fmt::format("{} on rank {} is in memory of {}, but the buffer works on {}", name, context.rank,
                        tensor.device().to_string(), context.device.to_string()));
}

void check_devices(const DispatchArgs& args, const RankContext& context) {
  check_device("x", args.x, context);
  check_device("sf", args.sf, context);
  check_device("topk_idx", args.topk_idx, context);
  check_device("topk_weights", args.topk_weights, context);
  check_device("num_tokens", args.num_tokens, context);
  check_device("cumulative_local_expert_recv_stats", args.cumulative_local_expert_recv_stats, context);
}

void check_devices(const CombineArgs& args, const RankContext& context) {
  check_device("x", args.x, context);
  check_device("topk_weights", args.topk_weights, context);
  for (const Tensor& bias : args.bias) check_device("bias", bias, context);
}

void check_rows(const Tensor& x, int rank) {
  require_argument(x.defined(), "x", "rank {} passed no x", rank);
  require_argument(x.num_dims() == 2, "x", "x on rank {} has shape {}, but must be [num_tokens, hidden]",
                   rank, x.shape());
  require_argument(x.size(1) <= 1 || x.stride(1) == 1, "x",
                   "x on rank {} has stride {} inside a row, but a row's elements must be neighbours", rank,
                   x.stride(1));
  const std::size_t row_bytes = static_cast<std::size_t>(x.size(1)) * size_of(x.dtype());
  require_argument(
      row_bytes > 0 && row_bytes % kRowGranularity == 0, "x",
      "x on rank {} has rows of {} bytes (hidden {}, {}), but a row must be a positive multiple of {} bytes",
      rank, row_bytes, x.size(1), name_of(x.dtype()), kRowGranularity);
  require_argument(
      x.size(0) <= std::numeric_limits<int>::max() && x.size(1) <= std::numeric_limits<int>::max(), "x",
      "x on rank {} has shape {}: too large", rank, x.shape());
}

std::optional<DType> check_weights(const Tensor& weights, const Shape& expected, int rank) {
  if (!weights) return std::nullopt;
  require_argument(weights.shape() == expected, "topk_weights",
                   "topk_weights on rank {} has shape {}, but must be {}", rank, weights.shape(), expected);
  require_argument(weights.dtype() == DType::kFloat32 || weights.dtype() == DType::kFloat64, "topk_weights",
                   "topk_weights on rank {} is {}, but must be fp32 (or fp64)", rank,
                   name_of(weights.dtype()));
  return weights.dtype();
}

std::optional<DType> check_scales(const Tensor& sf, int num_tokens, int rank) {
  if (!sf) return std::nullopt;
  require_argument(sf.num_dims() == 2 && sf.size(0) == num_tokens && sf.size(1) > 0, "sf",
                   "sf on rank {} has shape {}, but must be [num_tokens = {}, packs]", rank, sf.shape(),
                   num_tokens);
  require_argument(sf.dtype() == DType::kFloat32 || sf.dtype() == DType::kInt32, "sf",
                   "sf on rank {} is {}, but must be fp32, or int32 holding four UE8M0", rank,
                   name_of(sf.dtype()));
  return sf.dtype();
}

void check_stats(const Tensor& stats, int num_local_experts, int rank) {
  if (!stats) return;
  require_argument(
      stats.dtype() == DType::kInt32 && stats.shape() == Shape{num_local_experts} && stats.is_contiguous(),
      "cumulative_local_expert_recv_stats",
      "cumulative_local_expert_recv_stats on rank {} is {} {}, but must be int32 [{}]", rank,
      name_of(stats.dtype()), stats.shape(), num_local_experts);
}

int resolve_num_sms(int requested, int fallback, int rank) {
  require_argument(requested >= 0 && requested <= kMaxSms, "num_sms",
                   "num_sms on rank {} is {}, outside [0, {}]", rank, requested, kMaxSms);
  return requested > 0 ? requested : fallback;
}

template <typename Args>
void check_streams(const Args& args, int rank) {
  require_argument(!args.previous_event || args.allocate_on_comm_stream, "previous_event",
                   "previous_event on rank {} needs allocate_on_comm_stream: the outputs must not wait for "
                   "the caller's stream",
                   rank);
}

RoutingShape shape_of_fresh(const DispatchArgs& args, const RankContext& context) {
  const int rank = context.rank;
  const Tensor& ids = args.topk_idx;
  require_argument(ids.defined(), "topk_idx", "rank {} passed neither topk_idx nor a handle", rank);
  require_argument(ids.dtype() == DType::kInt64 || ids.dtype() == DType::kInt32, "topk_idx",
                   "topk_idx on rank {} is {}, but must be int64 or int32", rank, name_of(ids.dtype()));
  require_argument(ids.num_dims() == 2 && ids.size(0) == args.x.size(0) && ids.size(1) > 0, "topk_idx",
                   "topk_idx on rank {} has shape {}, but must be [num_tokens = {}, num_topk]", rank,
                   ids.shape(), args.x.size(0));
  require_argument(args.num_experts > 0 && args.num_experts <= kMaxExperts, "num_experts",
                   "num_experts on rank {} is {}, outside [1, {}]", rank, args.num_experts, kMaxExperts);
  require_argument(args.num_experts % context.num_ranks == 0, "num_experts",
                   "num_experts on rank {} is {}, not a multiple of the {} ranks", rank, args.num_experts,
                   context.num_ranks);
  require_argument(args.expert_alignment >= 0 && args.expert_alignment <= kMaxAlignment, "expert_alignment",
                   "expert_alignment on rank {} is {}, outside [0, {}]", rank, args.expert_alignment,
                   kMaxAlignment);
  require_argument(ids.size(1) <= kMaxTopk, "topk_idx", "topk_idx on rank {} has {} columns, more than {}",
                   rank, ids.size(1), kMaxTopk);
  return {.num_ranks = context.num_ranks,
          .num_experts = args.num_experts,
          .num_topk = static_cast<int>(ids.size(1)),
          .expert_alignment = std::max(args.expert_alignment, 1),
          .do_expand = args.do_expand.value_or(false)};
}

void check_handle(const DispatchHandle& handle, const RankContext& context) {
  const DispatchState& state = handle.state();
  if (state.recv_src_metadata.device() != context.device) {
    throw InvalidArgument(
        "handle",
        fmt::format("the handle on rank {} was made on {}, but the buffer works on {}", context.rank,
                    state.recv_src_metadata.device().to_string(), context.device.to_string()));
  }
  require_argument(state.rank == context.rank && state.shape.num_ranks == context.num_ranks, "handle",
                   "the handle on rank {} of {} was made by rank {} of {}", context.rank, context.num_ranks,
                   state.rank, state.shape.num_ranks);
  require_argument(state.routes.are_those_of(context.routes), "handle",
                   "the handle on rank {} was made by a buffer with another allow_hybrid_mode, or other "
                   "domains, and its plan does not serve this one",
                   context.rank);
}

// A cached dispatch takes everything from its handle; whoever repeats a value must repeat the same one.
template <typename T>
void check_repeated(const char* name, bool is_given, T given, T kept, int rank) {
  require_argument(!is_given || given == kept, name, "{} on rank {} is {}, but the handle was made with {}",
                   name, rank, given, kept);
}

void check_cached(const DispatchArgs& args, const RankContext& context) {
  check_handle(args.handle, context);
  const DispatchHandle& handle = args.handle;
  const int rank = context.rank;
  require_argument(!args.topk_idx, "topk_idx",
                   "rank {} passed topk_idx together with a handle, which has its own", rank);
  require_argument(args.x.size(0) == handle.num_tokens(), "x",
                   "x on rank {} has {} tokens, but the handle was made with {}", rank, args.x.size(0),
                   handle.num_tokens());
  check_repeated("num_experts", args.num_experts != 0, args.num_experts, handle.num_experts(), rank);
  check_repeated("expert_alignment", args.expert_alignment != 0, args.expert_alignment,
                 handle.expert_alignment(), rank);
  check_repeated("num_max_tokens_per_rank", args.num_max_tokens_per_rank != 0, args.num_max_tokens_per_rank,
                 handle.num_max_tokens_per_rank(), rank);
  check_repeated("num_sms", args.num_sms != 0, args.num_sms, handle.num_sms(), rank);
  check_repeated("do_expand", args.do_expand.has_value(), args.do_expand.value_or(false), handle.do_expand(),
                 rank);
  check_repeated("do_zero_padding", args.do_zero_padding.has_value(), args.do_zero_padding.value_or(false),
                 handle.state().do_zero_padding, rank);
  check_repeated("use_tma_aligned_col_major_sf", args.use_tma_aligned_col_major_sf.has_value(),
                 args.use_tma_aligned_col_major_sf.value_or(false), handle.state().sf_is_col_major, rank);
}

bool resolve_do_cpu_sync(const DispatchArgs& args, int rank) {
  if (!args.handle) return args.do_cpu_sync.value_or(true);
  require_argument(
      !args.do_cpu_sync.value_or(false), "do_cpu_sync",
      "do_cpu_sync on rank {} is true together with a handle: a cached dispatch has no counts to "
      "wait for",
      rank);
  return args.handle.do_cpu_sync();
}

void check_num_tokens(const DispatchArgs& args, const RankContext& context, bool do_cpu_sync) {
  if (!args.num_tokens) return;
  require_argument(!context.device.is_host() && !args.handle && !do_cpu_sync, "num_tokens",
                   "num_tokens on rank {} is for a fresh dispatch on a GPU, without host sync", context.rank);
  require_argument(args.num_tokens.dtype() == DType::kInt32 && args.num_tokens.shape() == Shape{1},
                   "num_tokens", "num_tokens on rank {} is {} {}, but must be int32 [1]", context.rank,
                   name_of(args.num_tokens.dtype()), args.num_tokens.shape());
}

// This rank's part in the agreement on N.
int resolve_num_max_tokens(const DispatchArgs& args, const RankContext& context, bool do_cpu_sync) {
  const int num_tokens = static_cast<int>(args.x.size(0));
  const int fixed = args.num_max_tokens_per_rank;
  const int agreed = context.default_num_max_tokens_per_rank;
  require_argument(fixed >= 0, "num_max_tokens_per_rank",
                   "num_max_tokens_per_rank on rank {} is {}, but must not be negative", context.rank, fixed);
  if (do_cpu_sync) return fixed > 0 ? fixed : std::max(agreed, num_tokens);
  require_argument(
      agreed > 0, "do_cpu_sync",
      "do_cpu_sync on rank {} is false, but the buffer was made without num_max_tokens_per_rank, "
      "which bounds its outputs",
      context.rank);
  require_argument(
      fixed == 0 || fixed == agreed, "num_max_tokens_per_rank",
      "num_max_tokens_per_rank on rank {} is {}, but without host sync it is what the buffer was "
      "made with, {}",
      context.rank, fixed, agreed);
  return agreed;
}

void check_num_qps(int num_qps, const RankContext& context) {
  require_argument(num_qps >= 0 && num_qps <= context.num_allocated_qps, "num_qps",
                   "num_qps on rank {} is {}, outside [0, num_allocated_qps = {}]", context.rank, num_qps,
                   context.num_allocated_qps);
}

}  // namespace

std::shared_ptr<DispatchState> make_dispatch_state(const DispatchRequest& request, int rank,
                                                   std::int64_t id) {
  auto state = std::make_shared<DispatchState>();
  state->id = id;
  state->rank = rank;
  state->shape = request.shape;
  state->num_sms = request.num_sms;
  state->do_zero_padding = request.do_zero_padding;
  state->sf_is_col_major = request.format.sf_is_col_major;
  state->do_cpu_sync = request.do_cpu_sync;
  state->idx_dtype = request.idx_dtype;
  state->num_tokens = request.num_tokens;
  return state;
}

void require_rows_have_arrived(const DispatchHandle& handle, int rank) {
  require_argument(handle.state().rows_have_arrived, "handle",
                   "the dispatch that made the handle of rank {} has not completed: it failed, or its event "
                   "was not waited for",
                   rank);
}

void require_tokens_fit(const DispatchRequest& request, int rank) {
  require_argument(request.num_tokens <= request.num_max_tokens_per_rank, "num_max_tokens_per_rank",
                   "rank {} has {} tokens, more than num_max_tokens_per_rank = {}", rank, request.num_tokens,
                   request.num_max_tokens_per_rank);
}

DispatchRequest resolve_dispatch(const DispatchArgs& args, const RankContext& context) {
  check_streams(args, context.rank);
  check_num_qps(args.num_qps, context);
  check_devices(args, context);
  check_rows(args.x, context.rank);
  const bool is_cached = static_cast<bool>(args.handle);
  if (is_cached) check_cached(args, context);

  DispatchRequest request;
  request.shape = is_cached ? args.handle.state().shape : shape_of_fresh(args, context);
  request.num_tokens = static_cast<int>(args.x.size(0));
  request.hidden = static_cast<int>(args.x.size(1));
  request.dtype = args.x.dtype();
  request.weight_dtype =
      check_weights(args.topk_weights, {request.num_tokens, request.shape.num_topk}, context.rank);
  request.sf_dtype = check_scales(args.sf, request.num_tokens, context.rank);
  check_stats(args.cumulative_local_expert_recv_stats, request.shape.num_local_experts(), context.rank);
  request.idx_dtype = is_cached ? args.handle.state().idx_dtype : args.topk_idx.dtype();
  request.do_cpu_sync = resolve_do_cpu_sync(args, context.rank);
  check_num_tokens(args, context, request.do_cpu_sync);
  request.num_max_tokens_per_rank = is_cached ? args.handle.num_max_tokens_per_rank()
                                              : resolve_num_max_tokens(args, context, request.do_cpu_sync);
  require_argument(args.max_recv_tokens >= 0 && !(is_cached && args.max_recv_tokens > 0), "max_recv_tokens",
                   "max_recv_tokens on rank {} is {}, but must not be negative, nor be given with a handle, "
                   "which has dropped already",
                   context.rank, args.max_recv_tokens);
  request.num_sms = resolve_num_sms(args.num_sms, is_cached ? args.handle.num_sms() : context.default_num_sms,
                                    context.rank);
  request.do_zero_padding =
      is_cached ? args.handle.state().do_zero_padding : args.do_zero_padding.value_or(false);
  require_argument(!request.do_zero_padding || request.shape.do_expand, "do_zero_padding",
                   "do_zero_padding on rank {} needs do_expand: the compact layout has no gaps",
                   context.rank);
  request.format = {.do_expand = request.shape.do_expand,
                    .num_topk = request.shape.num_topk,
                    .row_bytes = static_cast<std::size_t>(request.hidden) * size_of(request.dtype),
                    .idx_bytes = size_of(request.idx_dtype),
                    .weight_bytes = request.weight_dtype ? size_of(*request.weight_dtype) : 0,
                    .num_sf_packs = request.sf_dtype ? static_cast<int>(args.sf.size(1)) : 0,
                    .sf_is_col_major = is_cached ? args.handle.state().sf_is_col_major
                                                 : args.use_tma_aligned_col_major_sf.value_or(false),
                    .has_metadata = !is_cached};
  return request;
}

CombineRequest resolve_combine(const CombineArgs& args, const RankContext& context) {
  require_argument(static_cast<bool>(args.handle), "handle", "rank {} passed no handle to combine",
                   context.rank);
  check_streams(args, context.rank);
  check_num_qps(args.num_qps, context);
  check_handle(args.handle, context);
  check_devices(args, context);
  check_rows(args.x, context.rank);
  require_argument(is_summable(args.x.dtype()), "x",
                   "x on rank {} is {}, but combine sums bf16, fp16, fp32 or fp64", context.rank,
                   name_of(args.x.dtype()));
  const DispatchHandle& handle = args.handle;
  const bool has_enough =
      handle.do_expand() ? args.x.size(0) >= handle.num_rows() : args.x.size(0) == handle.num_rows();
  require_argument(has_enough, "x", "x on rank {} has {} rows, but its dispatch received {}", context.rank,
                   args.x.size(0), handle.num_rows());

  const Shape out_shape{handle.num_tokens(), args.x.size(1)};
  for (const Tensor& bias : args.bias) {
    require_argument(!bias || (bias.shape() == out_shape && bias.dtype() == args.x.dtype()), "bias",
                     "bias on rank {} is {} {}, but must be {} {}", context.rank, name_of(bias.dtype()),
                     bias.shape(), name_of(args.x.dtype()), out_shape);
  }

  CombineRequest request;
  request.hidden = static_cast<int>(args.x.size(1));
  request.dtype = args.x.dtype();
  request.row_bytes = static_cast<std::size_t>(request.hidden) * size_of(request.dtype);
  const Shape weights_shape =
      handle.do_expand() ? Shape{args.x.size(0)} : Shape{handle.num_rows(), handle.num_topk()};
  request.weight_dtype = check_weights(args.topk_weights, weights_shape, context.rank);
  request.num_sms = resolve_num_sms(args.num_sms, handle.num_sms(), context.rank);
  return request;
}

}  // namespace flexep
