// SPDX-License-Identifier: Apache-2.0
#include "flexep/dispatch_handle.h"

#include "bindings.h"
#include "tensor_exchange.h"

namespace flexep::python {
namespace {

// A getter for counts that lie in the handle: shared, not copied.
template <std::span<const std::int32_t> (DispatchHandle::*kCounts)() const>
nb::object counts(const DispatchHandle& self) {
  return to_python(view_of((self.*kCounts)(), self));
}

nb::list num_recv_tokens_per_expert_list(const DispatchHandle& self) {
  nb::list counts;
  for (const auto count : self.num_aligned_recv_tokens_per_expert()) counts.append(count);
  return counts;
}

}  // namespace

void bind_dispatch_handle(nb::module_& module) {
  using H = DispatchHandle;
  nb::class_<H>(
      module, "DispatchHandle",
      "What a dispatch decided, for combine and cached dispatches, any number of times. Outlives its buffer.")
      .def_prop_ro("do_expand", &H::do_expand)
      .def_prop_ro("do_cpu_sync", &H::do_cpu_sync)
      .def_prop_ro("num_experts", &H::num_experts)
      .def_prop_ro("num_topk", &H::num_topk)
      .def_prop_ro("expert_alignment", &H::expert_alignment)
      .def_prop_ro("num_max_tokens_per_rank", &H::num_max_tokens_per_rank)
      .def_prop_ro("num_sms", &H::num_sms)
      .def_prop_ro("num_tokens", &H::num_tokens)
      .def_prop_ro("num_recv_tokens", &H::num_recv_tokens)
      .def_prop_ro("num_expanded_tokens", &H::num_expanded_tokens)
      .def_prop_ro("num_rows", &H::num_rows)
      .def_prop_ro("topk_idx", [](const H& self) { return to_python(self.topk_idx()); })
      .def_prop_ro("num_recv_tokens_per_expert", &counts<&H::num_recv_tokens_per_expert>)
      .def_prop_ro("num_recv_tokens_per_expert_list", &num_recv_tokens_per_expert_list,
                   "Aligned counts by local expert; empty without host sync.")
      .def_prop_ro("expert_start_rows", &counts<&H::expert_start_rows>)
      .def_prop_ro("psum_num_recv_tokens_per_expert", &counts<&H::psum_num_recv_tokens_per_expert>)
      .def_prop_ro("psum_num_recv_tokens_per_rank", &counts<&H::psum_num_recv_tokens_per_rank>)
      .def_prop_ro("num_dropped_tokens", &counts<&H::num_dropped_tokens>)
      .def_prop_ro("recv_src_metadata", [](const H& self) { return to_python(self.recv_src_metadata()); })
      .def_prop_ro("dst_buffer_slot_idx",
                   [](const H& self) { return to_python(self.dst_buffer_slot_idx()); });
}

}  // namespace flexep::python
