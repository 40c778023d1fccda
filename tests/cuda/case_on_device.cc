// SPDX-License-Identifier: Apache-2.0
#include "cuda/case_on_device.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "conformance/compare.h"

namespace flexep::testing {
namespace {

using conformance::first_mismatch;

/// Holes between rows of strided inputs.
constexpr std::size_t kHoleBytes = 48;

std::optional<std::string> named(int rank, const char* what, const std::optional<std::string>& mismatch) {
  if (!mismatch) return std::nullopt;
  return fmt::format("rank {}, {}: {}", rank, what, *mismatch);
}

Tensor ints(std::span<const std::int32_t> values) {
  return Tensor::from_values(values, {static_cast<std::int64_t>(values.size())});
}

const char* name_of(CaseOnDevice::CombineInput where) {
  switch (where) {
    case CaseOnDevice::CombineInput::kInPlace:
      return "combine";
    case CaseOnDevice::CombineInput::kInPlaceWithSums:
      return "combine with sums";
    case CaseOnDevice::CombineInput::kStaged:
      return "staged combine";
  }
  return "";
}

/// Metadata without its opaque second column.
Tensor without_column_1(const Tensor& metadata) {
  Tensor copy = metadata.clone();
  for (std::int64_t row = 0; row < copy.size(0); ++row) copy.data<std::int32_t>()[row * copy.size(1) + 1] = 0;
  return copy;
}

/// sf as rows, from the strides of the output.
Tensor scales_in_rows(const std::byte* data, const OutputLayout& layout, std::int64_t num_rows,
                      std::int64_t num_packs, DType dtype) {
  const auto num_elements = static_cast<std::int64_t>(layout.sf_bytes / OutputLayout::kSfBytes);
  const Tensor all = download(data, {num_elements}, dtype);
  return Tensor::from_memory(all.data(), {num_rows, num_packs}, {layout.sf_row_stride, layout.sf_pack_stride},
                             dtype, all.owner())
      .clone();
}

}  // namespace

CaseOnDevice::CaseOnDevice(DeviceGroup& group, const conformance::CaseSpec& spec, const Options& options)
    : group_(group),
      spec_(spec),
      options_(options),
      expected_(spec),
      num_local_experts_(spec.num_experts / spec.num_ranks()),
      regions_(static_cast<std::size_t>(spec.num_ranks())),
      plans_(static_cast<std::size_t>(spec.num_ranks())),
      kept_ids_(static_cast<std::size_t>(spec.num_ranks())),
      metadata_(static_cast<std::size_t>(spec.num_ranks())) {
  clear();
}

void CaseOnDevice::clear() {
  for (int rank = 0; rank < spec_.num_ranks(); ++rank) {
    for (DeviceMemory* memory : {&group_.shared(rank), &group_.private_memory(rank)}) {
      memory->clear();
      require(cudaMemset(memory->data(), kPoison, memory->num_bytes()), "cudaMemset");
    }
  }
  require(cudaDeviceSynchronize(), "clear");
}

OutputFormat CaseOnDevice::format_of(const reference::RankInput& input, bool is_cached) const {
  return {.do_expand = spec_.do_expand,
          .num_topk = spec_.num_topk,
          .row_bytes = static_cast<std::size_t>(input.x.size(1)) * size_of(input.x.dtype()),
          .idx_bytes = size_of(spec_.idx_dtype),
          .weight_bytes = input.topk_weights ? size_of(input.topk_weights.dtype()) : 0,
          .num_sf_packs = input.sf ? static_cast<int>(input.sf.size(1)) : 0,
          .sf_is_col_major = spec_.sf_is_col_major,
          .has_metadata = !is_cached};
}

void CaseOnDevice::set_rows(cuda::DispatchLaunch& launch, const reference::RankInput& input,
                            DeviceMemory& memory) const {
  const std::size_t row_bytes = launch.format.row_bytes;
  launch.x_stride = row_bytes + (spec_.is_strided ? kHoleBytes : 0);
  const auto num_tokens = static_cast<std::size_t>(input.x.size(0));
  std::byte* x = memory.take(num_tokens * launch.x_stride);
  if (num_tokens > 0) {
    require(cudaMemcpy2D(x, launch.x_stride, input.x.data(), row_bytes, row_bytes, num_tokens,
                         cudaMemcpyHostToDevice),
            "x");
  }
  launch.x = x;
  launch.topk_weights = memory.upload(input.topk_weights);
  launch.sf = reinterpret_cast<const std::uint32_t*>(memory.upload(input.sf));
  launch.sf_row_stride = launch.format.num_sf_packs;
  launch.sf_pack_stride = 1;
}

cuda::DispatchLaunch CaseOnDevice::launch_of(int rank, const reference::RankInput& input, bool is_cached) {
  const auto r = static_cast<std::size_t>(rank);
  DeviceMemory& memory = group_.private_memory(rank);
  const int num_tokens = static_cast<int>(input.x.size(0));
  cuda::DispatchLaunch launch{.peers = group_.peers(rank),
                              .reports = group_.reports(rank, num_local_experts_),
                              .num_sms = options_.num_sms,
                              .format = format_of(input, is_cached),
                              .num_experts = spec_.num_experts,
                              .expert_alignment = spec_.expert_alignment,
                              .do_zero_padding = spec_.do_zero_padding,
                              .num_tokens = num_tokens,
                              .allow_bulk_copies = options_.allow_bulk_copies};
  launch.plan_layout = {.num_ranks = spec_.num_ranks(),
                        .num_local_experts = num_local_experts_,
                        .max_tokens = num_tokens,
                        .num_topk = spec_.num_topk,
                        .do_expand = spec_.do_expand};
  set_rows(launch, input, memory);
  if (is_cached) {
    launch.topk_idx = kept_ids_[r];
  } else {
    launch.topk_idx = memory.upload(input.topk_idx);
    kept_ids_[r] = memory.take(input.topk_idx.num_bytes());
    launch.kept_topk_idx = kept_ids_[r];
    plans_[r] = memory.take(launch.plan_layout.num_bytes());
  }
  launch.plan = plans_[r];
  launch.workspace =
      memory.take(cuda::dispatch_workspace_bytes(options_.num_sms, spec_.num_ranks(), spec_.num_experts));

  const auto& received = is_cached ? expected_.cached_received[r] : expected_.received[r];
  const ReceiveSize size{static_cast<int>(expected_.received[r].recv_src_metadata.size(0)),
                         static_cast<int>(received.x.size(0))};
  const OutputLayout layout(launch.format, size);
  regions_[r] = {.format = launch.format, .num_bytes = layout.num_bytes()};
  regions_[r].data = group_.shared(rank).take(regions_[r].num_bytes);
  if (!is_cached) metadata_[r] = regions_[r].data + layout.metadata_offset();
  if (is_cached) launch.metadata = reinterpret_cast<const std::int32_t*>(metadata_[r]);
  launch.header.region = group_.address(rank, regions_[r].data);
  launch.header.region_bytes = regions_[r].num_bytes;
  launch.header.num_max_tokens_per_rank = spec_.agreed_num_max_tokens();
  if (!is_cached && !spec_.max_recv_tokens.empty()) launch.header.max_recv_tokens = spec_.max_recv_tokens[r];
  launch.header.fingerprint[0] = is_cached ? 2 : 1;
  return launch;
}

cuda::DispatchLaunch CaseOnDevice::dispatch_launch(int rank) {
  return launch_of(rank, expected_.inputs[static_cast<std::size_t>(rank)], false);
}

void CaseOnDevice::launch_dispatches(const std::vector<reference::RankInput>& inputs, bool is_cached) {
  std::vector<cuda::DispatchLaunch> launches;
  for (int rank = 0; rank < spec_.num_ranks(); ++rank)
    launches.push_back(launch_of(rank, inputs[static_cast<std::size_t>(rank)], is_cached));
  DeviceGroup::finish_uploads();
  for (const auto& launch : launches)
    require(cuda::launch_dispatch(launch, group_.stream(launch.peers.rank)), "launch");
  group_.synchronize();
}

std::optional<std::string> CaseOnDevice::check_output(int rank, const reference::RankOutput& expected,
                                                      const reference::RankInput& input, bool is_cached) {
  const Region& region = regions_[static_cast<std::size_t>(rank)];
  const std::int64_t num_rows = expected.x.size(0);
  const std::int64_t num_tokens =
      expected_.received[static_cast<std::size_t>(rank)].recv_src_metadata.size(0);
  const OutputLayout layout(region.format, {static_cast<int>(num_tokens), static_cast<int>(num_rows)});
  std::vector<bool> rows;
  if (!spec_.do_zero_padding) rows = conformance::real_rows(spec_, expected);
  const auto check = [&](const char* what, const Tensor& want, const Tensor& got) {
    return named(rank, what, first_mismatch(want, got, rows));
  };

  if (auto m = check("x", expected.x, download(region.data, expected.x.shape(), expected.x.dtype())))
    return m;
  if (expected.sf) {
    const Tensor sf = scales_in_rows(region.data + layout.sf_offset(), layout, num_rows, input.sf.size(1),
                                     expected.sf.dtype());
    if (auto m = check("sf", expected.sf, sf)) return m;
  }
  if (expected.topk_idx) {
    const Tensor ids =
        download(region.data + layout.topk_idx_offset(), expected.topk_idx.shape(), spec_.idx_dtype);
    if (auto m = check("topk_idx", expected.topk_idx, ids)) return m;
  }
  if (expected.topk_weights) {
    const Tensor weights = download(region.data + layout.topk_weights_offset(), expected.topk_weights.shape(),
                                    expected.topk_weights.dtype());
    if (auto m = check("topk_weights", expected.topk_weights, weights)) return m;
  }
  if (is_cached) return std::nullopt;
  const Tensor metadata =
      download(region.data + layout.metadata_offset(), expected.recv_src_metadata.shape(), DType::kInt32);
  return named(rank, "recv_src_metadata",
               first_mismatch(without_column_1(expected.recv_src_metadata), without_column_1(metadata)));
}

std::optional<std::string> CaseOnDevice::check_plan(int rank, const reference::RankOutput& expected) {
  const auto r = static_cast<std::size_t>(rank);
  const cuda::PlanLayout layout{.num_ranks = spec_.num_ranks(),
                                .num_local_experts = num_local_experts_,
                                .max_tokens = spec_.num_tokens[r],
                                .num_topk = spec_.num_topk,
                                .do_expand = spec_.do_expand};
  const auto check = [&](const char* what, std::span<const std::int32_t> want, std::size_t offset) {
    const Tensor values = ints(want);
    return named(rank, what,
                 first_mismatch(values, download(plans_[r] + offset, values.shape(), DType::kInt32)));
  };
  if (auto m = check("num_recv_tokens_per_expert", expected.num_recv_tokens_per_expert,
                     layout.num_recv_tokens_per_expert()))
    return m;
  if (auto m = check("psum_num_recv_tokens_per_expert", expected.psum_num_recv_tokens_per_expert,
                     layout.psum_num_recv_tokens_per_expert()))
    return m;
  if (auto m = check("psum_num_recv_tokens_per_rank", expected.psum_num_recv_tokens_per_rank,
                     layout.psum_num_recv_tokens_per_rank()))
    return m;
  if (auto m = check("num_dropped_tokens", expected.num_dropped_tokens, layout.num_dropped_tokens()))
    return m;
  const Tensor& kept = expected_.kept_topk_idx[r];
  return named(rank, "kept topk_idx",
               first_mismatch(kept, download(kept_ids_[r], kept.shape(), kept.dtype())));
}

std::optional<std::string> CaseOnDevice::check_dispatch(const std::vector<reference::RankOutput>& expected,
                                                        const std::vector<reference::RankInput>& inputs,
                                                        bool is_cached) {
  launch_dispatches(inputs, is_cached);
  for (int rank = 0; rank < spec_.num_ranks(); ++rank) {
    const auto r = static_cast<std::size_t>(rank);
    const cuda::OperationResult& result = group_.result(rank);
    if (result.ready == 0 || result.verdict != cuda::Verdict::kGo || result.outcome != cuda::Outcome::kDone) {
      return fmt::format("rank {}: ready {}, verdict {}, culprit {}, outcome {}", rank, result.ready,
                         static_cast<int>(result.verdict), result.culprit, static_cast<int>(result.outcome));
    }
    if (auto m = check_output(rank, expected[r], inputs[r], is_cached)) return m;
    if (auto m = check_plan(rank, expected_.received[r])) return m;
  }
  return std::nullopt;
}

void CaseOnDevice::place_input(int rank, CombineInput where, cuda::CombineLaunch& launch) {
  const auto r = static_cast<std::size_t>(rank);
  const reference::CombineInput& input = expected_.expert_outputs[r];
  const bool is_staged = where == CombineInput::kStaged;
  DeviceMemory& memory = is_staged ? group_.private_memory(rank) : group_.shared(rank);
  const std::byte* x = memory.upload(input.x);
  const std::byte* weights = memory.upload(input.topk_weights);
  const bool reduces = spec_.do_expand && spec_.allow_multiple_reduction && where != CombineInput::kInPlace;
  if (is_staged || reduces) {
    launch.x = x;
    launch.staged_x = group_.shared(rank).take(input.x.num_bytes() + 16);
  }
  if (reduces) launch.metadata = reinterpret_cast<const std::int32_t*>(metadata_[r]);
  if (is_staged && weights != nullptr) {
    launch.topk_weights = weights;
    weights = launch.staged_topk_weights = group_.shared(rank).take(input.topk_weights.num_bytes() + 16);
  }
  launch.header.x = group_.address(rank, is_staged ? launch.staged_x : x);
  if (!is_staged && reduces) launch.header.summed_x = group_.address(rank, launch.staged_x);
  launch.header.x_is_per_token = !spec_.do_expand || (is_staged && reduces);
  if (weights != nullptr) launch.header.topk_weights = group_.address(rank, weights);
}

cuda::CombineLaunch CaseOnDevice::combine_launch(int rank, CombineInput where) {
  const auto r = static_cast<std::size_t>(rank);
  const reference::CombineInput& input = expected_.expert_outputs[r];
  const int num_tokens = spec_.num_tokens[r];
  DeviceMemory& memory = group_.private_memory(rank);
  cuda::CombineLaunch launch{.peers = group_.peers(rank),
                             .reports = group_.reports(rank, num_local_experts_),
                             .num_sms = options_.num_sms,
                             .plan = plans_[r],
                             .plan_layout = {.num_ranks = spec_.num_ranks(),
                                             .num_local_experts = num_local_experts_,
                                             .max_tokens = num_tokens,
                                             .num_topk = spec_.num_topk,
                                             .do_expand = spec_.do_expand},
                             .num_tokens = num_tokens,
                             .allow_multiple_reduction = spec_.allow_multiple_reduction,
                             .dtype = input.x.dtype(),
                             .num_columns = static_cast<int>(input.x.size(1)),
                             .weight_bytes = input.topk_weights ? size_of(input.topk_weights.dtype()) : 0,
                             .allow_bulk_copies = options_.allow_bulk_copies};
  launch.header.fingerprint[0] = 3;
  place_input(rank, where, launch);
  for (std::size_t i = 0; i < 2; ++i) launch.bias[i] = memory.upload(input.bias[i]);
  launch.out_x = memory.take(expected_.combined[r].x.num_bytes());
  if (input.topk_weights)
    launch.out_topk_weights = memory.take(expected_.combined[r].topk_weights.num_bytes());
  return launch;
}

std::optional<std::string> CaseOnDevice::check_combine(CombineInput where) {
  std::vector<cuda::CombineLaunch> launches;
  for (int rank = 0; rank < spec_.num_ranks(); ++rank) launches.push_back(combine_launch(rank, where));
  DeviceGroup::finish_uploads();
  for (const auto& launch : launches)
    require(cuda::launch_combine(launch, group_.stream(launch.peers.rank)), "launch");
  group_.synchronize();
  for (const auto& launch : launches) {
    const int rank = launch.peers.rank;
    const reference::CombineOutput& expected = expected_.combined[static_cast<std::size_t>(rank)];
    const auto verdict = group_.result(rank).verdict;
    if (verdict != cuda::Verdict::kGo)
      return fmt::format("rank {}: verdict {}", rank, static_cast<int>(verdict));
    const Tensor x = download(launch.out_x, expected.x.shape(), expected.x.dtype());
    if (auto m = named(rank, name_of(where), first_mismatch(expected.x, x))) return m;
    if (!expected.topk_weights) continue;
    const Tensor weights =
        download(launch.out_topk_weights, expected.topk_weights.shape(), expected.topk_weights.dtype());
    if (auto m = named(rank, "combined weights", first_mismatch(expected.topk_weights, weights))) return m;
  }
  return std::nullopt;
}

std::optional<std::string> CaseOnDevice::run() {
  if (auto m = run_dispatch()) return m;
  for (const CombineInput where : {CombineInput::kInPlace, CombineInput::kStaged})
    if (auto m = check_combine(where)) return m;
  if (group_.peers(0).is_across_link != nullptr && spec_.do_expand)
    if (auto m = check_combine(CombineInput::kInPlaceWithSums)) return m;
  return check_dispatch(expected_.cached_received, expected_.cached_inputs, true);
}

}  // namespace flexep::testing
