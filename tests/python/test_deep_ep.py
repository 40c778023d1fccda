# SPDX-License-Identifier: Apache-2.0
"""DeepEP's interface, bit for bit, against the plain reference."""

import inspect
import os
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")

import flexep
from flexep import deep_ep
from reference import Routing, align, combine, dispatch_compact, dispatch_expanded, gather, generator, same

HIDDEN = 64
NUM_EXPERTS = 8
NUM_TOPK = 3


class Case:
    """Random routed tokens of this rank; rank 1 has none where `has_empty_rank`."""

    def __init__(self, dtype=torch.bfloat16, has_empty_rank=False, seed=0):
        self.rank = torch.distributed.get_rank()
        num_tokens = 0 if has_empty_rank and self.rank == 1 else 12 + 3 * self.rank
        random = generator(100 * seed + self.rank)
        self.x = torch.randn(num_tokens, HIDDEN, generator=random).to(dtype)
        scores = torch.rand(num_tokens, NUM_EXPERTS, generator=random)
        self.topk_idx = scores.topk(NUM_TOPK).indices
        self.topk_idx[torch.rand(num_tokens, NUM_TOPK, generator=random) < 0.2] = -1
        self.weights = torch.rand(num_tokens, NUM_TOPK, generator=random)
        self.weights[self.topk_idx < 0] = 0
        self.routing = Routing(gather(self.topk_idx), self.rank, NUM_EXPERTS)
        self.all_x, self.all_weights = gather(self.x), gather(self.weights)

    def dispatch(self, buffer, **options):
        return buffer.dispatch(self.x, self.topk_idx, self.weights, num_experts=NUM_EXPERTS, **options)


def make_buffer(**options):
    return deep_ep.ElasticBuffer(torch.distributed.group.WORLD, num_max_tokens_per_rank=64, hidden=HIDDEN, **options)


@pytest.mark.parametrize("has_empty_rank", [False, True])
@pytest.mark.ranks(2, 4, cuda=(2, 4, 8))
def test_compact_round_trip(has_empty_rank):
    case, buffer = Case(has_empty_rank=has_empty_rank), make_buffer()
    recv_x, recv_idx, recv_weights, handle, event = case.dispatch(buffer)
    for actual, expected in zip(
        (recv_x, recv_idx, recv_weights), dispatch_compact(case.routing, case.all_x, case.all_weights), strict=True
    ):
        same(actual, expected)
    with pytest.raises(flexep.InvalidArgument):
        event.current_stream_wait()
    y = recv_x * 2
    combined, weights, _ = buffer.combine(y, handle, recv_weights)
    same(combined, combine(case.routing, gather(y), expand=False))
    same(weights, case.weights)


@pytest.mark.parametrize("multiple_reduction", [True, False])
@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_expanded_round_trip(multiple_reduction):
    case, buffer = Case(), make_buffer(allow_multiple_reduction=multiple_reduction)
    recv_x, recv_idx, recv_weights, handle, _ = case.dispatch(
        buffer, do_expand=True, expert_alignment=4, do_zero_padding=True
    )
    assert recv_idx is None
    expected_x, expected_weights = dispatch_expanded(case.routing, case.all_x, case.all_weights, 4)
    same(recv_x, expected_x)
    same(recv_weights, expected_weights)
    y = recv_x * recv_weights[:, None].to(recv_x.dtype)
    bias = torch.randn(case.x.shape).to(case.x.dtype)
    combined, weights, _ = buffer.combine(y, handle, recv_weights, bias)
    same(combined, combine(case.routing, gather(y), True, 4, multiple_reduction, bias.cpu()))
    same(weights, case.weights)


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_handle_has_deep_ep_fields():
    case, buffer = Case(), make_buffer()
    _, _, _, handle, _ = case.dispatch(buffer, do_expand=True, expert_alignment=4)
    pairs, num_rows = case.routing.pairs(case.rank, 4)
    tokens = list(case.routing.tokens(case.rank))
    num_local = case.routing.num_local
    counts = [
        sum((ids == case.rank * num_local + local).sum().item() for ids in case.routing.topk_idx)
        for local in range(num_local)
    ]
    starts = [sum(align(c, 4) for c in counts[:i]) for i in range(num_local)]
    assert (handle.do_expand, handle.num_experts, handle.expert_alignment) == (True, NUM_EXPERTS, 4)
    assert handle.num_max_tokens_per_rank == 64 and handle.num_sms >= 1
    assert handle.num_recv_tokens == len(tokens) and handle.num_expanded_tokens == num_rows
    assert handle.num_recv_tokens_per_expert_list == [align(c, 4) for c in counts]
    assert handle.num_unaligned_recv_tokens_per_expert.tolist() == counts
    assert handle.psum_num_recv_tokens_per_expert.tolist() == [s + c for s, c in zip(starts, counts, strict=True)]
    by_rank = [sum(r <= rank for r, _ in tokens) for rank in range(case.routing.num_ranks)]
    assert handle.psum_num_recv_tokens_per_scaleup_rank.tolist() == by_rank
    assert handle.num_dropped_tokens.tolist() == [0] * num_local
    same(handle.topk_idx, case.topk_idx)
    metadata = handle.recv_src_metadata
    assert metadata[:, 0].tolist() == [rank * 64 + token for rank, token in tokens]
    rows = dict(pairs)
    for row, (rank, token) in enumerate(tokens):
        expected = [rows.get((rank, token, column), -1) for column in range(NUM_TOPK)]
        assert metadata[row, 2:].tolist() == expected
    assert handle.dst_buffer_slot_idx.shape == case.topk_idx.shape
    assert deep_ep.topk_idx_t == torch.int64


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_cached_dispatch_repeats_what_its_handle_says(expand):
    case, buffer = Case(), make_buffer()
    first_x, first_idx, first_weights, handle, _ = case.dispatch(
        buffer, do_expand=expand, do_zero_padding=expand, expert_alignment=2
    )
    x, idx, weights, again, _ = buffer.dispatch(case.x, topk_weights=case.weights, handle=handle)
    assert again is handle
    same(x, first_x)
    same(weights, first_weights)
    if not expand:
        same(idx, first_idx)
        with pytest.raises(flexep.Error):
            buffer.dispatch(case.x, handle=handle, do_expand=True)


@pytest.mark.parametrize("column_major", [False, True])
@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_fp8_rows_travel_with_their_scales(column_major):
    case, buffer = Case(), make_buffer()
    rows, scales = case.x.to(torch.float8_e4m3fn), torch.rand(len(case.x), 2)
    (recv_x, recv_sf), *_ = buffer.dispatch(
        (rows, scales), case.topk_idx, num_experts=NUM_EXPERTS, use_tma_aligned_col_major_sf=column_major
    )
    expected_x, _, _ = dispatch_compact(case.routing, gather(rows.view(torch.uint8)), case.all_weights)
    expected_sf, _, _ = dispatch_compact(case.routing, gather(scales), case.all_weights)
    assert recv_x.dtype == torch.float8_e4m3fn
    same(recv_x.view(torch.uint8), expected_x)
    same(recv_sf, expected_sf)
    if column_major:
        assert recv_sf.stride() == (1, align(len(recv_sf), 4))


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_types_that_flexep_does_not_know_are_moved_as_bits():
    case, buffer = Case(), make_buffer()
    rows = case.x.to(torch.float8_e5m2)
    recv_x, *_ = buffer.dispatch(rows, case.topk_idx, num_experts=NUM_EXPERTS)
    expected, _, _ = dispatch_compact(case.routing, gather(rows.view(torch.uint8)), case.all_weights)
    assert recv_x.dtype == torch.float8_e5m2
    same(recv_x.view(torch.uint8), expected)


@pytest.mark.ranks(2)
def test_strangers_are_refused_by_name():
    case, buffer = Case(), make_buffer()
    for stranger, message in (([[1.0]], "list"), (torch.zeros(1, HIDDEN, dtype=torch.complex128), "element type")):
        with pytest.raises(flexep.InvalidArgument, match=message) as error:
            buffer.dispatch(stranger, case.topk_idx, num_experts=NUM_EXPERTS)
        assert error.value.argument == "x"
    case.dispatch(buffer)


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_asynchronous_operations_chain_by_events():
    case, buffer = Case(), make_buffer()
    recv_x, _, recv_weights, handle, event = case.dispatch(
        buffer, previous_event=buffer.capture(), async_with_compute_stream=True, allocate_on_comm_stream=True
    )
    with event:
        pass
    expected_x, _, _ = dispatch_compact(case.routing, case.all_x, case.all_weights)
    same(recv_x, expected_x)
    combined, _, event = buffer.combine(recv_x, handle, async_with_compute_stream=True)
    seen = []
    event.register_hook(lambda: seen.append(True))
    event.current_stream_wait(release_handle=True)
    assert seen == [True] and event.event is None
    same(combined, combine(case.routing, gather(recv_x), expand=False))


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_dispatch_without_host_sync_has_room_for_all():
    case, buffer = Case(), make_buffer()
    recv_x, recv_idx, _, handle, _ = case.dispatch(buffer, do_cpu_sync=False)
    expected_x, expected_idx, _ = dispatch_compact(case.routing, case.all_x, case.all_weights)
    assert len(recv_x) == case.routing.num_ranks * 64 == handle.num_recv_tokens and handle.num_recv_tokens_per_expert_list == []
    num_tokens = int(handle.psum_num_recv_tokens_per_scaleup_rank[-1])
    same(recv_x[:num_tokens], expected_x)
    same(recv_idx[:num_tokens], expected_idx)
    combined, _, _ = buffer.combine(recv_x, handle)
    same(combined, combine(case.routing, gather(recv_x[:num_tokens]), expand=False))
    buffer.check()


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_statistics_add_up_in_cached_mode_too():
    case, buffer = Case(), make_buffer()
    stats = torch.zeros(case.routing.num_local, dtype=torch.int32)
    *_, handle, _ = case.dispatch(buffer, cumulative_local_expert_recv_stats=stats)
    buffer.dispatch(case.x, handle=handle, cumulative_local_expert_recv_stats=stats)
    same(stats, 2 * handle.num_unaligned_recv_tokens_per_expert)


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_expert_output_in_arena_memory_is_not_staged():
    case, buffer = Case(torch.float32), make_buffer()
    recv_x, _, _, handle, _ = case.dispatch(buffer)
    y = buffer.empty(tuple(recv_x.shape), torch.float32)
    torch.mul(recv_x, 3, out=y)
    combined, _, _ = buffer.combine(y, handle)
    same(combined, combine(case.routing, gather(y), expand=False))
    assert buffer.counters().combine.staging_bytes == 0
    buffer.combine(y.clone(), handle)
    assert buffer.counters().combine.staging_bytes == y.numel() * 4


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_registered_memory_is_not_staged():
    import mmap

    case, buffer = Case(torch.float32), make_buffer()
    recv_x, _, _, handle, _ = case.dispatch(buffer)
    if recv_x.is_cpu:  # whole pages
        pages = torch.frombuffer(mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE), dtype=torch.float32)
    else:
        pages = torch.empty(1 << 14)
    with buffer.register_memory(pages):
        y = pages[: recv_x.numel()].view(recv_x.shape)
        torch.mul(recv_x, 3, out=y)
        combined, _, _ = buffer.combine(y, handle)
    same(combined, combine(case.routing, gather(y), expand=False))
    assert buffer.counters().combine.staging_bytes == 0


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_tensors_outlive_their_buffer_which_then_refuses_calls():
    case, buffer = Case(), make_buffer(explicitly_destroy=True)
    recv_x, _, _, handle, _ = case.dispatch(buffer)
    buffer.destroy()
    expected_x, _, _ = dispatch_compact(case.routing, case.all_x, case.all_weights)
    same(recv_x, expected_x)
    with pytest.raises(flexep.InvalidArgument):
        buffer.combine(recv_x, handle)


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_buffer_describes_itself():
    buffer = make_buffer(num_topk=4)
    world = torch.distributed.group.WORLD
    assert buffer.num_bytes == deep_ep.ElasticBuffer.get_buffer_size_hint(world, 64, HIDDEN, 4)
    assert buffer.num_bytes % (2 << 20) == 0
    assert (buffer.rank_idx, buffer.num_ranks) == (torch.distributed.get_rank(), world.size())
    assert buffer.get_logical_domain_size() == buffer.get_physical_domain_size() == (1, world.size())
    assert (buffer.num_allocated_qps, buffer.get_theoretical_num_qps(64)) == (129, 129)
    if world.size() == 2:
        assert buffer.get_theoretical_num_sms(256, 8, nvlink_gbs=450) == 24
    with pytest.raises(flexep.InvalidArgument):
        deep_ep.ElasticBuffer(world)


def test_signatures_are_deep_ep_s():
    def defaults(function):
        return {p.name: p.default for p in list(inspect.signature(function).parameters.values())[1:]}

    empty = inspect.Parameter.empty
    assert list(defaults(deep_ep.ElasticBuffer.dispatch).items()) == [
        ("x", empty),
        ("topk_idx", None),
        ("topk_weights", None),
        ("cumulative_local_expert_recv_stats", None),
        ("num_experts", None),
        ("num_max_tokens_per_rank", None),
        ("expert_alignment", None),
        ("num_sms", 0),
        ("num_qps", 0),
        ("previous_event", None),
        ("previous_event_before_epilogue", None),
        ("async_with_compute_stream", False),
        ("allocate_on_comm_stream", False),
        ("handle", None),
        ("do_handle_copy", True),
        ("do_cpu_sync", None),
        ("do_expand", False),
        ("do_zero_padding", False),
        ("use_tma_aligned_col_major_sf", False),
    ]
    assert list(defaults(deep_ep.ElasticBuffer.combine).items()) == [
        ("x", empty),
        ("handle", empty),
        ("topk_weights", None),
        ("bias", None),
        ("num_sms", 0),
        ("num_qps", 0),
        ("previous_event", None),
        ("previous_event_before_epilogue", None),
        ("async_with_compute_stream", False),
        ("allocate_on_comm_stream", False),
    ]
    assert list(inspect.signature(deep_ep.ElasticBuffer).parameters)[0] == "group"
    assert list(defaults(deep_ep.ElasticBuffer).items()) == [
        ("num_bytes", None),
        ("num_cpu_bytes", 0),
        ("num_max_tokens_per_rank", 0),
        ("hidden", 0),
        ("num_topk", 0),
        ("use_fp8_dispatch", False),
        ("deterministic", False),
        ("allow_hybrid_mode", True),
        ("allow_multiple_reduction", True),
        ("prefer_overlap_with_compute", True),
        ("sl_idx", 3),
        ("num_allocated_qps", 0),
        ("num_cpu_timeout_secs", 300),
        ("num_gpu_timeout_secs", 100),
        ("explicitly_destroy", False),
    ]
    barrier = {"use_comm_stream": True, "with_cpu_sync": False, "sequential": True}
    assert defaults(deep_ep.ElasticBuffer.barrier) == barrier
    assert list(defaults(deep_ep.ElasticBuffer.get_theoretical_num_sms).values()) == [empty, empty, 0, 0, 0, 200, 50]
    assert deep_ep.EPBuffer is deep_ep.ElasticBuffer


@pytest.mark.ranks(2)
def test_what_is_missing_says_what_to_use():
    buffer = make_buffer()
    for name in ("engram_write", "pp_send", "create_agrs_session", "all_gather"):
        with pytest.raises(NotImplementedError, match="torch.distributed"):
            getattr(buffer, name)()
    if buffer.runtime.device == "cpu":
        with pytest.raises(NotImplementedError, match="previous_event"):
            buffer.get_comm_stream()


_PROGRAM = "import deep_ep; from deep_ep.utils import EventOverlap; print(deep_ep.ElasticBuffer.__module__)"


def _output(*command, **environment):
    return subprocess.run(
        command, env=os.environ | environment, check=True, capture_output=True, text=True, timeout=120
    ).stdout.strip()


def test_programs_find_flexep_as_deep_ep(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(_PROGRAM)
    module = "flexep.deep_ep.elastic"
    assert _output(sys.executable, "-m", "flexep.run_as_deep_ep", str(script)) == module
    folder = _output(sys.executable, "-m", "flexep.run_as_deep_ep", "--print-path")
    path = os.pathsep.join([folder, os.environ.get("PYTHONPATH", "")])
    assert _output(sys.executable, "-c", _PROGRAM, PYTHONPATH=path) == module
