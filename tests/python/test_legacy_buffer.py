# SPDX-License-Identifier: Apache-2.0
"""DeepEP's older Buffer, bit for bit, against the plain reference."""

import inspect

import pytest

torch = pytest.importorskip("torch")

import flexep
from flexep import deep_ep
from reference import Routing, dispatch_compact, gather, generator, same

HIDDEN, NUM_EXPERTS, NUM_TOPK = 64, 8, 3


class Case:
    """Random routed tokens of this rank and what DeepEP's layout says about them; rank 1 has none if `has_empty_rank`."""

    def __init__(self, has_empty_rank=False):
        self.rank = torch.distributed.get_rank()
        num_tokens = 0 if has_empty_rank and self.rank == 1 else 12 + 3 * self.rank
        random = generator(self.rank)
        self.x = torch.randn(num_tokens, HIDDEN, generator=random).bfloat16()
        self.topk_idx = torch.rand(num_tokens, NUM_EXPERTS, generator=random).topk(NUM_TOPK).indices
        self.topk_idx[torch.rand(num_tokens, NUM_TOPK, generator=random) < 0.2] = -1
        self.weights = torch.rand(num_tokens, NUM_TOPK, generator=random)
        self.routing = Routing(gather(self.topk_idx), self.rank, NUM_EXPERTS)
        self.buffer = deep_ep.Buffer(torch.distributed.group.WORLD)
        names = ["num_tokens_per_rank", "num_tokens_per_rdma_rank", "num_tokens_per_expert", "is_token_in_rank"]
        self.layout = dict(zip(names, self.buffer.get_dispatch_layout(self.topk_idx, NUM_EXPERTS), strict=False))

    def dispatch(self, x=None, **options):
        ids = {"topk_idx": self.topk_idx, "topk_weights": self.weights}
        return self.buffer.dispatch(self.x if x is None else x, **self.layout, **(ids | options))

    def sums_by_rank(self, y, bias=None):
        """fp32 sums in the ascending order of ranks, bias first; rounded to y's type once."""
        owners = range(self.routing.num_ranks)
        places = [{pair: row for row, pair in enumerate(self.routing.tokens(owner))} for owner in owners]
        out = y[0].new_zeros((len(self.topk_idx), y[0].size(1)), dtype=torch.float32)
        for token in range(len(out)):
            parts = [y[o][places[o][self.rank, token]] for o in owners if (self.rank, token) in places[o]]
            for part in ([bias[token]] if bias is not None else []) + parts:
                out[token] += part.float()
        return out.to(y[0].dtype)


@pytest.mark.parametrize("has_empty_rank", [False, True])
@pytest.mark.ranks(2, 4, cuda=(2, 4, 8))
def test_round_trip(has_empty_rank):
    case = Case(has_empty_rank)
    recv_x, recv_idx, recv_weights, counts, handle, event = case.dispatch()
    expected = dispatch_compact(case.routing, gather(case.x), gather(case.weights))
    for actual, wanted in zip((recv_x, recv_idx, recv_weights), expected, strict=True):
        same(actual, wanted)
    assert counts == [(recv_idx == local).sum().item() for local in range(case.routing.num_local)]
    assert event.event is None
    # Experts that differ in scale: an order of sums that is not the ranks' would show.
    y = recv_x * 3.1 ** (case.rank + 1)
    bias = torch.randn(case.x.shape).bfloat16()
    combined, weights, _ = case.buffer.combine(y, handle, topk_weights=recv_weights, bias=bias)
    same(combined, case.sums_by_rank(gather(y), bias.cpu()))
    same(weights, torch.where(case.topk_idx >= 0, case.weights, 0))


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_layout_counts_tokens_by_rank_and_pairs_by_expert():
    case = Case()
    ids, num_local = case.topk_idx, case.routing.num_local
    for rank in range(case.routing.num_ranks):
        is_in_rank = ((ids >= rank * num_local) & (ids < (rank + 1) * num_local)).any(dim=1)
        same(case.layout["is_token_in_rank"][:, rank], is_in_rank)
        assert case.layout["num_tokens_per_rank"][rank] == is_in_rank.sum()
    assert case.layout["num_tokens_per_rdma_rank"] is None
    expected = [(ids == expert).sum().item() for expert in range(NUM_EXPERTS)]
    assert case.layout["num_tokens_per_expert"].tolist() == expected
    assert case.layout["num_tokens_per_expert"].dtype == torch.int32


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_weights_are_summed_over_ranks():
    case = Case()
    recv_x, _, recv_weights, _, handle, _ = case.dispatch()
    everywhere = torch.full_like(recv_weights, 0.5 + case.rank)
    _, weights, _ = case.buffer.combine(recv_x, handle, topk_weights=everywhere)
    in_rank = case.layout["is_token_in_rank"].float()
    same(weights, (in_rank @ (0.5 + torch.arange(case.routing.num_ranks)))[:, None].expand(-1, NUM_TOPK).contiguous())


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_cached_dispatch_moves_rows_alone():
    case = Case()
    recv_x, _, _, _, handle, _ = case.dispatch()
    again, *nothing, event = case.buffer.dispatch(case.x, handle=handle)
    same(again, recv_x)
    assert nothing == [None] * 4 and event.event is None
    rank_prefix = [sum(r <= rank for r, _ in case.routing.tokens(case.rank)) for rank in range(case.routing.num_ranks)]
    assert handle[0][:, case.rank].tolist() == rank_prefix
    with pytest.raises(flexep.InvalidArgument):
        case.dispatch(handle=handle)


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_fp8_rows_travel_with_their_scales():
    case = Case()
    rows, scales = case.x.to(torch.float8_e4m3fn), torch.rand(2, len(case.x)).t()
    (recv_x, recv_scales), recv_idx, _, _, handle, _ = case.dispatch((rows, scales))
    expected_x, expected_idx, _ = dispatch_compact(case.routing, gather(rows.view(torch.uint8)), gather(case.weights))
    expected_scales, _, _ = dispatch_compact(case.routing, gather(scales), gather(case.weights))
    same(recv_x.view(torch.uint8), expected_x)
    same(recv_scales, expected_scales)
    same(recv_idx, expected_idx)
    (again, again_scales), *_ = case.buffer.dispatch((rows, scales), handle=handle)
    same(again.view(torch.uint8), expected_x)
    same(again_scales, expected_scales)


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_alignment_rounds_counts_and_worst_case_pads_rows():
    case = Case()
    recv_x, recv_idx, recv_weights, counts, handle, _ = case.dispatch(expert_alignment=8)
    exact = [(recv_idx == local).sum().item() for local in range(case.routing.num_local)]
    assert counts == [-(-count // 8) * 8 for count in exact]
    padded_x, padded_idx, padded_weights, nothing, handle, _ = case.dispatch(num_worst_tokens=64)
    assert nothing == [] and len(padded_x) == len(padded_idx) == 64
    same(padded_x[: len(recv_x)], recv_x)
    same(padded_weights[: len(recv_x)], recv_weights)
    assert (padded_idx[len(recv_x) :] == -1).all()
    combined, _, _ = case.buffer.combine(padded_x, handle)
    same(combined, case.sums_by_rank(gather(recv_x)))


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_asynchronous_operations_follow_their_events():
    case = Case()
    buffer = case.buffer
    for _ in range(20):
        start = buffer.capture()
        *_, layout_event = buffer.get_dispatch_layout(
            case.topk_idx, NUM_EXPERTS, previous_event=start, async_finish=True, allocate_on_comm_stream=True
        )
        recv_x, recv_idx, _, _, handle, event = case.dispatch(
            previous_event=layout_event, async_finish=True, allocate_on_comm_stream=True
        )
        with event:
            pass
        expected_x, expected_idx, _ = dispatch_compact(case.routing, gather(case.x), gather(case.weights))
        same(recv_x, expected_x)
        same(recv_idx, expected_idx)
        combined, _, event = buffer.combine(recv_x * 2, handle, async_finish=True)
        event.current_stream_wait()
        same(combined, case.sums_by_rank(gather(recv_x * 2)))
    with pytest.raises(flexep.InvalidArgument):
        case.dispatch(allocate_on_comm_stream=True)


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_tokens_without_ids_go_where_the_layout_says():
    case = Case()
    recv_x, recv_idx, recv_weights, counts, handle, _ = case.dispatch(topk_idx=None, topk_weights=None)
    same(recv_x, dispatch_compact(case.routing, gather(case.x), gather(case.weights))[0])
    assert recv_idx is None and recv_weights is None and counts == []
    same(case.buffer.combine(recv_x, handle)[0], case.sums_by_rank(gather(recv_x)))


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_what_is_missing_says_what_to_use():
    world = torch.distributed.group.WORLD
    with pytest.raises(NotImplementedError, match="ElasticBuffer"):
        deep_ep.Buffer(world, low_latency_mode=True)
    with pytest.raises(NotImplementedError, match="do_expand"):
        Case().buffer.low_latency_dispatch()
    with pytest.raises(ValueError):
        deep_ep.Buffer(None)


def test_sizes_and_widths_are_accepted_and_limit_nothing(monkeypatch):
    monkeypatch.setattr(deep_ep.Buffer, "num_sms", 20)
    deep_ep.Buffer.set_num_sms(24)
    config = deep_ep.Buffer.get_dispatch_config(4)
    assert config.num_sms == deep_ep.Buffer.get_combine_config(4).num_sms == 24
    assert config.get_nvl_buffer_size_hint(2 * HIDDEN, 4) > 0 == config.get_rdma_buffer_size_hint(2 * HIDDEN, 4)
    assert config.get_rdma_buffer_size_hint(2 * HIDDEN, 16) % 128 == 0
    with pytest.raises(flexep.InvalidArgument):
        deep_ep.Buffer.set_num_sms(7)


def test_signatures_are_deep_ep_s():
    def names(function):
        return list(inspect.signature(function).parameters)

    assert names(deep_ep.Buffer) == [
        *("group", "num_nvl_bytes", "num_rdma_bytes", "low_latency_mode", "num_qps_per_rank"),
        *("allow_nvlink_for_low_latency_mode", "allow_mnnvl", "explicitly_destroy", "enable_shrink", "comm"),
    ]
    assert names(deep_ep.Buffer.dispatch)[1:] == [
        *("x", "handle", "num_tokens_per_rank", "num_tokens_per_rdma_rank", "is_token_in_rank"),
        *("num_tokens_per_expert", "topk_idx", "topk_weights", "expert_alignment", "num_worst_tokens", "config"),
        *("previous_event", "async_finish", "allocate_on_comm_stream"),
    ]
    assert names(deep_ep.Buffer.combine)[1:] == [
        *("x", "handle", "topk_weights", "bias", "config", "previous_event", "async_finish"),
        "allocate_on_comm_stream",
    ]
