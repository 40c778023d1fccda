# SPDX-License-Identifier: Apache-2.0
"""The flex dispatcher over ranks against a dense layer on every rank."""

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist

import flexep
from flexep.moe import FlexDispatcherConfig, FlexTokenDispatcher
from reference import all_reduce, device_name, generator

NUM_EXPERTS, NUM_TOPK, HIDDEN = 8, 2, 16


def experts_weights():
    return torch.randn(NUM_EXPERTS, HIDDEN, HIDDEN, generator=generator(1), dtype=torch.float64)


def layer(dispatcher, hidden, routing_map, probs, weights):
    hidden, probs = dispatcher.dispatch_preprocess(hidden, routing_map, probs)
    hidden, probs = dispatcher.token_dispatch(hidden, probs)
    rows, counts, probs = dispatcher.dispatch_postprocess(hidden, probs)
    first = dist.get_rank() * len(counts)
    chunks = zip(weights[first : first + len(counts)], rows.split(counts.tolist()), strict=True)
    rows = torch.cat([torch.tanh(chunk @ weight) for weight, chunk in chunks]) * probs[:, None]
    hidden = dispatcher.token_combine(dispatcher.combine_preprocess(rows))
    return dispatcher.combine_postprocess(hidden)


def dense(hidden, probs, weights, travels):
    """Every expert on every token; `travels` [T, E] says which pairs count."""
    flat = hidden.reshape(-1, HIDDEN)
    outputs = torch.tanh(torch.einsum("th,ehg->teg", flat, weights))
    return (outputs * (probs.float() * travels)[:, :, None]).sum(dim=1).view(hidden.shape)


def top(probs):
    return torch.zeros_like(probs, dtype=torch.bool).scatter(1, probs.topk(NUM_TOPK).indices, True)


def case(options, exclude=0.0):
    """(dispatcher, hidden [S, B, H], map, probs) of this rank; a share of the chosen pairs is excluded by map and by a zero."""
    torch.manual_seed(10 + dist.get_rank())
    buffer = flexep.ElasticBuffer(flexep.Communicator.from_process_group(), device=device_name())
    config = FlexDispatcherConfig(NUM_EXPERTS, NUM_TOPK, **options)
    hidden = torch.randn(5 + dist.get_rank(), 2, HIDDEN, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(hidden.size(0) * 2, NUM_EXPERTS)
    routing_map = top(scores) & (torch.rand_like(scores) >= exclude)
    return FlexTokenDispatcher(buffer, config), hidden, routing_map, (scores * routing_map).requires_grad_()


@pytest.mark.parametrize(
    "options, exclude",
    [
        ({}, 0.0),
        ({"expert_alignment": 4}, 0.0),
        ({"moe_expert_capacity_factor": 1.0}, 0.4),
        ({"moe_respect_routing_map": True, "expert_alignment": 2}, 0.4),
    ],
)
@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_outputs_and_gradients_are_those_of_a_dense_layer(options, exclude):
    dispatcher, hidden, routing_map, probs = case(options, exclude)
    weights = experts_weights()
    results = []
    for compute in (
        lambda: layer(dispatcher, hidden, routing_map, probs, weights),
        lambda: dense(hidden, probs, weights, routing_map),
    ):
        hidden.grad = probs.grad = None
        output = compute()
        output.square().sum().backward()
        results.append((output.detach(), hidden.grad, probs.grad * routing_map))
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_pairs_beyond_the_limit_are_dropped_and_counted():
    dispatcher, hidden, routing_map, probs = case({"max_recv_tokens": 3})
    rows, row_probs = dispatcher.token_dispatch(*dispatcher.dispatch_preprocess(hidden, routing_map, probs))
    assert len(rows) == len(row_probs) <= 3
    num_pairs = torch.tensor(len(rows) + sum(dispatcher.num_dropped_tokens))
    all_reduce(num_pairs)
    num_routed = routing_map.sum()
    all_reduce(num_routed)
    assert num_pairs == num_routed
    assert dispatcher.combine_postprocess(dispatcher.token_combine(rows)).shape == hidden.shape


@pytest.mark.ranks(2, cuda=(2, 4, 8))
def test_wrong_shapes_are_refused_by_name():
    dispatcher, hidden, routing_map, probs = case({})
    with pytest.raises(flexep.InvalidArgument, match="probs"):
        dispatcher.dispatch_preprocess(hidden, routing_map, probs[:-1])
    with pytest.raises(flexep.InvalidArgument, match="topk"):
        FlexTokenDispatcher(None, FlexDispatcherConfig(2, 3))
