// SPDX-License-Identifier: Apache-2.0
#include "conformance/run_case.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "flexep/error.h"

namespace flexep::conformance {
namespace {

/// One case on one rank: its buffer, its part of the data, its findings.
class CaseOnRank {
 public:
  CaseOnRank(const CaseSpec& spec, const ExpectedResults& expected, int rank, const Placement& placement,
             RegisteringBuffer& buffer, Findings& findings)
      : spec_(spec),
        expected_(expected),
        rank_(static_cast<std::size_t>(rank)),
        placement_(placement),
        memory_(buffer),
        buffer_(buffer.buffer()),
        findings_(findings),
        stats_(placement.put(Tensor::zeros({spec.num_experts / spec.num_ranks()}, DType::kInt32))) {}

  DispatchResult dispatch();
  void dispatch_cached(const DispatchHandle& handle);
  Tensor combine_from_arena(const DispatchHandle& handle);
  void combine_from_registered_memory(const DispatchHandle& handle);
  void combine_from_ordinary_memory(const DispatchHandle& handle);
  void combine_unchanged(const DispatchResult& received);

 private:
  CombineResult combine(const Tensor& x, const DispatchHandle& handle, const Tensor& topk_weights,
                        const std::array<Tensor, 2>& bias);
  /// A copy as the case passes it: with holes between the rows, or dense.
  Tensor as_passed(const Tensor& tensor) const;
  Tensor scales_as_passed(const Tensor& sf) const;
  void check_received(std::string_view operation, const reference::RankOutput& expected,
                      const DispatchResult& got, const std::vector<bool>& compared);
  void check_handle(const DispatchHandle& handle);
  void check_scales(std::string_view operation, const reference::RankOutput& expected,
                    const DispatchResult& got, const std::vector<bool>& compared);
  /// Each dispatch adds the pairs that were routed, dropped or not.
  void check_stats(int num_dispatches);
  void check_metadata(const Tensor& metadata);
  void check_combined(std::string_view operation, const reference::CombineOutput& expected,
                      const CombineResult& got);
  void poison_free_memory();
  /// The rows that arrived, of an output that has room for more when there was no host sync.
  Tensor arrived(const Tensor& expected, const Tensor& got) const;
  /// The other way round: as many rows as recv.x has, those that count first.
  Tensor with_room(const Tensor& rows, const DispatchHandle& handle) const;

  const CaseSpec& spec_;
  const ExpectedResults& expected_;
  std::size_t rank_;
  const Placement& placement_;
  const RegisteringBuffer& memory_;
  ElasticBuffer& buffer_;
  Findings& findings_;
  Tensor stats_;  ///< of both dispatches
};

void fill(const Tensor& tensor, int byte) {
  if (tensor && tensor.num_bytes() > 0) std::memset(tensor.data(), byte, tensor.num_bytes());
}

/// A copy whose elements have `strides` and whose holes are filled with garbage.
Tensor spread(const Tensor& tensor, const Shape& strides, std::int64_t num_elements) {
  const Tensor memory = Tensor::empty({std::max<std::int64_t>(num_elements, 1)}, tensor.dtype());
  fill(memory, 0xCC);
  const Tensor view =
      Tensor::from_memory(memory.data(), tensor.shape(), strides, tensor.dtype(), memory.owner());
  const std::size_t element_bytes = size_of(tensor.dtype());
  for (std::int64_t i = 0; i < tensor.size(0); ++i) {
    for (std::int64_t j = 0; j < tensor.size(1); ++j) {
      std::memcpy(static_cast<std::byte*>(view.data()) +
                      static_cast<std::size_t>(i * strides[0] + j * strides[1]) * element_bytes,
                  static_cast<const std::byte*>(tensor.data()) +
                      static_cast<std::size_t>(i * tensor.size(1) + j) * element_bytes,
                  element_bytes);
    }
  }
  return view;
}

Tensor CaseOnRank::as_passed(const Tensor& tensor) const {
  if (!tensor || !spec_.is_strided || tensor.num_dims() != 2) return placement_.put(tensor.clone());
  const std::int64_t stride = tensor.size(1) + 3;
  return placement_.put(spread(tensor, {stride, 1}, tensor.size(0) * stride));
}

Tensor CaseOnRank::scales_as_passed(const Tensor& sf) const {
  if (!sf || !spec_.is_strided) return placement_.put(sf.clone());
  const std::int64_t stride = sf.size(0) + 2;
  return placement_.put(spread(sf, {1, stride}, sf.size(1) * stride));
}

Tensor CaseOnRank::arrived(const Tensor& expected, const Tensor& got) const {
  const bool has_room =
      expected && got && got.num_dims() == expected.num_dims() && got.size(0) >= expected.size(0);
  return !spec_.do_cpu_sync && has_room ? got.rows(0, expected.size(0)) : got;
}

Tensor CaseOnRank::with_room(const Tensor& rows, const DispatchHandle& handle) const {
  if (!rows || spec_.do_cpu_sync) return rows;
  const Shape shape =
      rows.num_dims() == 1 ? Shape{handle.num_rows()} : Shape{handle.num_rows(), rows.size(1)};
  const Tensor all = Tensor::empty(shape, rows.dtype());
  fill(all, 0xBB);
  if (rows.num_bytes() > 0) std::memcpy(all.data(), rows.data(), rows.num_bytes());
  return all;
}

void CaseOnRank::check_scales(std::string_view operation, const reference::RankOutput& expected,
                              const DispatchResult& got, const std::vector<bool>& compared) {
  findings_.compare(fmt::format("{}, recv.sf", operation), expected.sf,
                    placement_.fetch(arrived(expected.sf, got.sf)).contiguous(), compared);
  if (!got.sf) return;
  const std::int64_t num_rows = got.sf.size(0);
  const Shape strides =
      spec_.sf_is_col_major ? Shape{1, (num_rows + 3) / 4 * 4} : Shape{spec_.num_sf_packs, 1};
  findings_.compare(fmt::format("{}, strides of recv.sf", operation), strides.to_string(),
                    Shape{got.sf.stride(0), got.sf.stride(1)}.to_string());
}

void CaseOnRank::poison_free_memory() {
  // Outputs are about this large: the next one is likely to get memory that was filled here.
  const auto& received = expected_.received[rank_];
  constexpr std::int64_t kMaxElements = 1 << 17;  // more would only make the arena grow
  std::array<Tensor, 3> blocks;
  for (auto& block : blocks) {
    const auto num_elements = static_cast<std::int64_t>(received.x.num_bytes()) + 4096;
    block = buffer_.empty({std::min(num_elements, kMaxElements)}, DType::kBFloat16);
    placement_.fill(block, 0xEE);
  }
}

DispatchResult CaseOnRank::dispatch() {
  poison_free_memory();
  const auto& input = expected_.inputs[rank_];
  const auto& expected = expected_.received[rank_];
  const Tensor x = as_passed(input.x);
  const DispatchResult got = buffer_.dispatch({.x = x,
                                               .sf = scales_as_passed(input.sf),
                                               .topk_idx = as_passed(input.topk_idx),
                                               .topk_weights = as_passed(input.topk_weights),
                                               .num_experts = spec_.num_experts,
                                               .num_max_tokens_per_rank = spec_.num_max_tokens_per_rank,
                                               .expert_alignment = spec_.expert_alignment,
                                               .num_sms = spec_.num_sms,
                                               .do_expand = spec_.do_expand,
                                               .do_zero_padding = spec_.do_zero_padding,
                                               .use_tma_aligned_col_major_sf = spec_.sf_is_col_major,
                                               .cumulative_local_expert_recv_stats = stats_,
                                               .do_handle_copy = spec_.do_handle_copy,
                                               .max_recv_tokens = spec_.max_recv_tokens[rank_],
                                               .do_cpu_sync = spec_.do_cpu_sync,
                                               .async_with_compute_stream = spec_.is_async});
  if (got.event) got.event.wait();
  const auto compared = spec_.do_zero_padding ? std::vector<bool>() : real_rows(spec_, expected);
  findings_.compare("dispatch, input x", input.x, placement_.fetch(x).contiguous());
  check_scales("dispatch", expected, got, compared);
  check_stats(1);
  check_received("dispatch", expected, got, compared);
  check_handle(got.handle);
  return got;
}

void CaseOnRank::check_received(std::string_view operation, const reference::RankOutput& expected,
                                const DispatchResult& got, const std::vector<bool>& compared) {
  const auto fetch = [&](const Tensor& like, const Tensor& tensor) {
    return placement_.fetch(arrived(like, tensor));
  };
  findings_.compare(fmt::format("{}, recv.x", operation), expected.x, fetch(expected.x, got.x), compared);
  findings_.compare(fmt::format("{}, recv.topk_idx", operation), expected.topk_idx,
                    fetch(expected.topk_idx, got.topk_idx));
  findings_.compare(fmt::format("{}, recv.topk_weights", operation), expected.topk_weights,
                    fetch(expected.topk_weights, got.topk_weights), compared);
}

void CaseOnRank::check_handle(const DispatchHandle& handle) {
  const auto& input = expected_.inputs[rank_];
  const auto& expected = expected_.received[rank_];
  const auto& counts = expected.num_recv_tokens_per_expert;
  std::vector<std::int32_t> aligned, starts;
  std::int32_t num_expanded = 0;
  for (const std::int32_t count : counts) {
    const std::int32_t a = spec_.expert_alignment;
    starts.push_back(num_expanded);
    aligned.push_back((count + a - 1) / a * a);
    num_expanded += aligned.back();
  }
  findings_.compare("handle.do_expand", spec_.do_expand, handle.do_expand());
  findings_.compare("handle.num_experts", spec_.num_experts, handle.num_experts());
  findings_.compare("handle.num_topk", spec_.num_topk, handle.num_topk());
  findings_.compare("handle.expert_alignment", spec_.expert_alignment, handle.expert_alignment());
  findings_.compare("handle.num_max_tokens_per_rank", spec_.agreed_num_max_tokens(),
                    handle.num_max_tokens_per_rank());
  findings_.compare("handle.num_tokens", static_cast<int>(input.x.size(0)), handle.num_tokens());
  findings_.compare("handle.do_cpu_sync", spec_.do_cpu_sync, handle.do_cpu_sync());
  if (spec_.do_cpu_sync) {  // else they are bounds
    findings_.compare("handle.num_recv_tokens", static_cast<int>(expected.recv_src_metadata.size(0)),
                      handle.num_recv_tokens());
    findings_.compare("handle.num_expanded_tokens", num_expanded, handle.num_expanded_tokens());
    findings_.compare("handle.num_rows", static_cast<int>(expected.x.size(0)), handle.num_rows());
  } else {
    aligned.clear();
  }
  findings_.compare("handle.topk_idx", expected_.kept_topk_idx[rank_],
                    placement_.fetch(handle.topk_idx()).contiguous());
  findings_.compare("handle.num_dropped_tokens", expected.num_dropped_tokens, handle.num_dropped_tokens());
  findings_.compare("handle.num_recv_tokens_per_expert", counts, handle.num_recv_tokens_per_expert());
  findings_.compare("handle.num_aligned_recv_tokens_per_expert", aligned,
                    handle.num_aligned_recv_tokens_per_expert());
  findings_.compare("handle.expert_start_rows", starts, handle.expert_start_rows());
  findings_.compare("handle.psum_num_recv_tokens_per_expert", expected.psum_num_recv_tokens_per_expert,
                    handle.psum_num_recv_tokens_per_expert());
  findings_.compare("handle.psum_num_recv_tokens_per_rank", expected.psum_num_recv_tokens_per_rank,
                    handle.psum_num_recv_tokens_per_rank());
  check_metadata(placement_.fetch(arrived(expected.recv_src_metadata, handle.recv_src_metadata())));
}

void CaseOnRank::check_stats(int num_dispatches) {
  std::vector<std::int32_t> expected = expected_.num_routed_tokens_per_expert[rank_];
  for (std::int32_t& count : expected) count *= num_dispatches;
  findings_.compare("cumulative_local_expert_recv_stats", expected,
                    placement_.fetch(stats_).values<std::int32_t>());
}

void CaseOnRank::check_metadata(const Tensor& metadata) {
  // What the contract calls opaque is taken over, so that it compares equal: column 1, and 2.. of the compact
  // layout.
  Tensor expected = expected_.received[rank_].recv_src_metadata.clone();
  const std::int64_t num_columns = expected.size(1);
  if (metadata && metadata.shape() == expected.shape() && metadata.dtype() == expected.dtype()) {
    for (std::int64_t i = 0; i < expected.num_elements(); ++i) {
      const std::int64_t column = i % num_columns;
      const bool is_exact = column == 0 || (column >= 2 && spec_.do_expand);
      if (!is_exact) expected.data<std::int32_t>()[i] = metadata.data<std::int32_t>()[i];
    }
  }
  findings_.compare("handle.recv_src_metadata", expected, metadata);
}

void CaseOnRank::dispatch_cached(const DispatchHandle& handle) {
  poison_free_memory();
  const auto& input = expected_.cached_inputs[rank_];
  const auto& expected = expected_.cached_received[rank_];
  const DispatchResult got = buffer_.dispatch({.x = as_passed(input.x),
                                               .sf = scales_as_passed(input.sf),
                                               .topk_weights = as_passed(input.topk_weights),
                                               .handle = handle,
                                               .cumulative_local_expert_recv_stats = stats_,
                                               .async_with_compute_stream = spec_.is_async});
  if (got.event) got.event.wait();
  const auto compared = spec_.do_zero_padding ? std::vector<bool>() : real_rows(spec_, expected);
  check_scales("cached dispatch", expected, got, compared);
  check_received("cached dispatch", expected, got, compared);
  check_stats(2);
  check_handle(got.handle);
}

CombineResult CaseOnRank::combine(const Tensor& x, const DispatchHandle& handle, const Tensor& topk_weights,
                                  const std::array<Tensor, 2>& bias) {
  CombineResult result = buffer_.combine({.x = x,
                                          .handle = handle,
                                          .topk_weights = topk_weights,
                                          .bias = {as_passed(bias[0]), as_passed(bias[1])},
                                          .async_with_compute_stream = spec_.is_async});
  if (result.event) result.event.wait();
  return result;
}

Tensor CaseOnRank::combine_from_arena(const DispatchHandle& handle) {
  poison_free_memory();
  const auto& input = expected_.expert_outputs[rank_];
  const Tensor rows = with_room(input.x, handle);
  const Tensor x = buffer_.empty(rows.shape(), rows.dtype());
  placement_.write(x, rows);
  const CombineResult got =
      combine(x, handle, placement_.put(with_room(input.topk_weights, handle)), input.bias);
  findings_.compare("combine from arena memory, input x", rows, placement_.fetch(x));
  placement_.fill(x, 0xDD);  // allowed from now on: a rank that still reads it will show it
  check_combined("combine from arena memory", expected_.combined[rank_], got);
  return got.x;
}

void CaseOnRank::combine_from_registered_memory(const DispatchHandle& handle) {
  poison_free_memory();
  const auto& input = expected_.expert_outputs[rank_];
  const Tensor rows = with_room(input.x, handle);
  Tensor x = memory_.registered(rows.shape(), rows.dtype());
  if (!x) x = placement_.put(rows.clone());  // other ranks combine
  placement_.write(x, rows);
  const CombineResult got =
      combine(x, handle, placement_.put(with_room(input.topk_weights, handle)), input.bias);
  placement_.fill(x, 0xDD);
  check_combined("combine from registered memory", expected_.combined[rank_], got);
}

void CaseOnRank::combine_from_ordinary_memory(const DispatchHandle& handle) {
  poison_free_memory();
  const auto& input = expected_.expert_outputs[rank_];
  const Tensor x = as_passed(with_room(input.x, handle));
  const Tensor weights = as_passed(with_room(input.topk_weights, handle));
  const CombineResult got = combine(x, handle, weights, input.bias);
  if (x.is_contiguous()) placement_.fill(x, 0xDD);
  check_combined("combine from ordinary memory", expected_.combined[rank_], got);
}

void CaseOnRank::combine_unchanged(const DispatchResult& received) {
  const CombineResult got = combine(received.x, received.handle, received.topk_weights, {});
  check_combined("combine of what dispatch delivered", expected_.round_trip[rank_], got);
}

void CaseOnRank::check_combined(std::string_view operation, const reference::CombineOutput& expected,
                                const CombineResult& got) {
  findings_.compare(fmt::format("{}, x", operation), expected.x, placement_.fetch(got.x));
  findings_.compare(fmt::format("{}, topk_weights", operation), expected.topk_weights,
                    placement_.fetch(got.topk_weights));
}

}  // namespace

CaseRunner::CaseRunner(const Communicator& comm, const ElasticBufferConfig& config)
    : rank_(comm.rank()), placement_(config.device), buffers_(comm, config) {}

std::optional<std::string> CaseRunner::run(const CaseSpec& spec, const ExpectedResults& expected) {
  Findings findings;
  try {
    run_operations(spec, expected, findings);
  } catch (const TimeoutError&) {
    throw;
  } catch (const TransportError&) {
    throw;
  } catch (const Error& error) {
    findings.add("threw", error.what());
  }
  return findings.first();
}

void CaseRunner::run_operations(const CaseSpec& spec, const ExpectedResults& expected, Findings& findings) {
  CaseOnRank on_rank(spec, expected, rank_, placement_, buffers_.of(spec), findings);
  const DispatchResult received = on_rank.dispatch();
  on_rank.dispatch_cached(received.handle);
  const Tensor combined = on_rank.combine_from_arena(received.handle);
  on_rank.combine_from_registered_memory(received.handle);
  on_rank.combine_from_ordinary_memory(received.handle);
  if (is_summable(spec.dtype)) on_rank.combine_unchanged(received);
  check_kept(findings);
  keep(spec.seed % 2 == 0 ? received.x : combined);
}

void CaseRunner::check_kept(Findings& findings) {
  for (const auto& [result, copy] : kept_) {
    findings.compare("a result of an earlier case", copy, placement_.fetch(result));
  }
}

void CaseRunner::keep(const Tensor& result) {
  constexpr std::size_t kNumKept = 5;
  constexpr std::size_t kMaxKeptBytes = 1
                                        << 20;  // a large one would hold a large piece of the arena for long
  if (result.num_bytes() > kMaxKeptBytes) return;
  const Kept kept{result, placement_.fetch(result).clone()};
  if (kept_.size() < kNumKept) {
    kept_.push_back(kept);
  } else {
    kept_[num_runs_ % kNumKept] = kept;
  }
  ++num_runs_;
}

}  // namespace flexep::conformance
