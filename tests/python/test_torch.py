# SPDX-License-Identifier: Apache-2.0
"""Gradients of dispatch and combine: against finite differences in fp64, and against the plain reference."""

import inspect

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

import flexep
import flexep.torch
from flexep import deep_ep
from reference import all_reduce, device_name, gather, generator

NUM_EXPERTS = 4


class Replicated(torch.autograd.Function):
    """The same tensor on every rank: its gradient is the sum of everybody's."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, grad):
        total = grad.clone()
        all_reduce(total)
        return total


class Gathered(torch.autograd.Function):
    """Everybody's tensor, on every rank: with Replicated, ranks together are one function of one input."""

    @staticmethod
    def forward(ctx, x):
        return torch.stack(gather(x)).to(x.device)

    @staticmethod
    def backward(ctx, grad):
        return grad[dist.get_rank()]


def make_buffer(**options):
    return flexep.ElasticBuffer(flexep.Communicator.from_process_group(), device=device_name(), **options)


def routing(num_tokens=4):
    random = generator(7 + dist.get_rank())
    idx = torch.rand(num_tokens, NUM_EXPERTS, generator=random).topk(2).indices
    idx[0, 1] = -1
    return idx


def num_owners(idx):
    """How many ranks each token goes to."""
    num_local = NUM_EXPERTS // dist.get_world_size()
    return torch.tensor([len({expert // num_local for expert in row if expert >= 0}) for row in idx.tolist()])


def moe(buffer, x, idx, weights, expand, scale=1.0):
    """A layer whose experts square their rows and multiply by the weight of the pair."""
    recv = flexep.torch.dispatch(
        buffer, x, idx, weights, num_experts=NUM_EXPERTS, do_expand=expand, expert_alignment=2 if expand else 1
    )
    probs = recv.topk_weights if expand else recv.topk_weights.sum(dim=1)
    y = recv.x.square() * probs[:, None] * scale
    return flexep.torch.combine(buffer, y, recv.handle)[0]


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.ranks(2, cuda=(2, 4))
def test_gradcheck_of_a_layer_over_ranks(expand):
    buffer, idx, rank = make_buffer(), routing(), dist.get_rank()

    def layer(x, weights):
        x, weights = Replicated.apply(x), Replicated.apply(weights)
        return Gathered.apply(moe(buffer, x[rank], idx, weights[rank], expand))

    torch.manual_seed(3)  # the same inputs on both ranks
    shape = (dist.get_world_size(), 4, 2)
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(shape, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x, weights))


@pytest.mark.parametrize("expand", [False, True])
def test_gradients_have_gradients(expand):
    buffer = flexep.ElasticBuffer(flexep.Communicator.single())
    idx = torch.tensor([[0, 1], [3, -1], [2, 0]])
    x = torch.randn(3, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x, weights: moe(buffer, x, idx, weights, expand), (x, weights))


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.ranks(2, cuda=(2, 4))
def test_gradcheck_of_weights_and_bias_through_combine(expand):
    buffer, idx, rank = make_buffer(), routing(), dist.get_rank()
    x = torch.zeros(4, 2, dtype=torch.float64)
    handle = flexep.torch.dispatch(buffer, x, idx, num_experts=NUM_EXPERTS, do_expand=expand).handle
    num_rows = torch.tensor(handle.num_rows)
    most = num_rows.clone()
    all_reduce(most, dist.ReduceOp.MAX)

    def back(y, weights, bias):
        y, weights, bias = (Replicated.apply(t)[rank] for t in (y, weights, bias))
        weights = weights[:num_rows] if not expand else weights[:num_rows, 0]
        x, gathered = flexep.torch.combine(buffer, y[:num_rows], handle, weights, bias)
        return Gathered.apply(torch.cat([x, gathered], dim=1))

    torch.manual_seed(3)
    inputs = [
        torch.randn(dist.get_world_size(), rows, 2, dtype=torch.float64, requires_grad=True)
        for rows in (int(most), int(most), 4)
    ]
    assert torch.autograd.gradcheck(back, inputs)


def test_each_backward_returns_a_gradient_for_each_argument_of_its_forward():
    # PyTorch tolerates surplus None values, so only counting finds them.
    buffer = flexep.ElasticBuffer(flexep.Communicator.single())
    counts = {}

    def counted(function):
        backward = function.backward

        def wrapper(ctx, *grads):
            result = backward(ctx, *grads)
            counts[function.__name__] = len(result)
            return result

        return staticmethod(wrapper)

    functions = (flexep.torch._Dispatch, flexep.torch._Combine)
    originals = [function.__dict__["backward"] for function in functions]
    for function in functions:
        function.backward = counted(function)
    try:
        x = torch.ones(2, 4, requires_grad=True)
        moe(buffer, x, torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2), expand=False).sum().backward()
    finally:
        for function, original in zip(functions, originals, strict=True):
            function.backward = original
    for function in functions:
        num_arguments = len(inspect.signature(function.forward).parameters) - 1
        assert counts[function.__name__] == num_arguments


@pytest.mark.ranks(2, cuda=(2, 4))
def test_gaps_are_zero_in_rows_and_in_gradients():
    buffer, idx = make_buffer(), routing(5)
    # Fills the arena with NaN, which the next outputs then lie in.
    stale = torch.from_dlpack(buffer.empty((4096, 16), "fp32"))
    stale.fill_(float("nan"))
    del stale
    x = torch.randn(5, 16, requires_grad=True)
    recv = flexep.torch.dispatch(buffer, x, idx, num_experts=NUM_EXPERTS, do_expand=True, expert_alignment=8)
    assert torch.isfinite(recv.x).all()
    weight = torch.randn(16, 16, requires_grad=True)
    y = recv.x @ weight
    y.retain_grad()
    out, _ = flexep.torch.combine(buffer, y, recv.handle)
    stale = torch.from_dlpack(buffer.empty((4096, 16), "fp32"))
    stale.fill_(float("nan"))
    del stale
    out.square().sum().backward()
    assert torch.isfinite(y.grad).all() and torch.isfinite(weight.grad).all() and torch.isfinite(x.grad).all()


@pytest.mark.ranks(2, cuda=(2, 4))
def test_handle_of_deep_ep_without_padding_has_zeroed_gaps_in_backward():
    buffer = deep_ep.ElasticBuffer(dist.group.WORLD, num_max_tokens_per_rank=8, hidden=16)
    x = torch.randn(5, 16)
    recv_x, _, _, handle, _ = buffer.dispatch(x, routing(5), num_experts=NUM_EXPERTS, do_expand=True, expert_alignment=8)
    y = torch.zeros(recv_x.shape, requires_grad=True)
    stale = buffer.empty((4096, 16), torch.float32).fill_(float("nan"))
    del stale
    flexep.torch.combine(buffer, y, handle)[0].sum().backward()
    assert torch.isfinite(y.grad).all() and y.grad.sum() == 16 * handle.num_unaligned_recv_tokens_per_expert.sum()


@pytest.mark.ranks(2, cuda=(2, 4))
def test_recomputed_activations_give_the_same_gradients():
    buffer, idx = make_buffer(), routing()
    grads = []
    for recompute in (False, True):
        torch.manual_seed(dist.get_rank())
        x = torch.randn(4, 8, requires_grad=True)
        weights = torch.rand(4, 2, requires_grad=True)
        if recompute:
            out = checkpoint(moe, buffer, x, idx, weights, True, use_reentrant=False)
        else:
            out = moe(buffer, x, idx, weights, True)
        out.square().sum().backward()
        grads.append((x.grad, weights.grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@pytest.mark.ranks(2, cuda=(2, 4))
def test_handle_used_twice_adds_gradients():
    buffer, idx = make_buffer(), routing()
    x = torch.randn(4, 8, dtype=torch.float64, requires_grad=True)
    recv = flexep.torch.dispatch(buffer, x, idx, num_experts=NUM_EXPERTS)
    once, _ = flexep.torch.combine(buffer, recv.x, recv.handle)
    again = flexep.torch.dispatch(buffer, x, handle=recv.handle)
    twice, _ = flexep.torch.combine(buffer, again.x * 2, recv.handle)
    (once + twice).sum().backward()
    assert torch.equal(x.grad, (3 * num_owners(idx).double())[:, None].expand(4, 8))


@pytest.mark.ranks(2, cuda=(2, 4))
def test_rank_that_receives_nothing_takes_part():
    buffer = make_buffer()
    x = torch.randn(3, 8, requires_grad=True)
    weights = torch.rand(3, 1, requires_grad=True)
    idx = torch.zeros(3, 1, dtype=torch.int64)
    out = moe(buffer, x, idx, weights, expand=False)
    out.sum().backward()
    assert torch.allclose(x.grad, 2 * x * weights)
    x = x.detach()[: 3 * (1 - dist.get_rank())].requires_grad_()
    out = moe(buffer, x, idx[: len(x)], weights[: len(x)], expand=True)
    out.sum().backward()
    assert x.grad.shape == x.shape


@pytest.mark.ranks(2, cuda=(2, 4))
def test_strided_and_expanded_gradients_are_read_rightly():
    buffer, idx = make_buffer(), routing()
    x = torch.randn(8, 4, requires_grad=True)
    wide = torch.randn(4, 8)
    grads = []
    for grad in (wide.t().contiguous().t(), wide):
        x.grad = None
        recv = flexep.torch.dispatch(buffer, x.t(), idx, num_experts=NUM_EXPERTS)
        flexep.torch.combine(buffer, recv.x, recv.handle)[0].backward(grad)
        grads.append(x.grad)
    assert torch.equal(*grads)
    x.grad = None
    flexep.torch.dispatch(buffer, x.t(), idx, num_experts=NUM_EXPERTS).x.sum().backward()  # grad is expanded
    assert torch.equal(x.grad, num_owners(idx).float().expand(8, 4))


@pytest.mark.ranks(2, cuda=(2, 4))
def test_no_grad_keeps_no_graph_and_bf16_autocast_works():
    buffer, idx = make_buffer(), routing()
    x = torch.randn(4, 8, requires_grad=True)
    with torch.no_grad():
        assert not moe(buffer, x, idx, torch.ones(4, 2), expand=False).requires_grad
    linear = torch.nn.Linear(8, 8)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        recv = flexep.torch.dispatch(buffer, x, idx, num_experts=NUM_EXPERTS)
        out, _ = flexep.torch.combine(buffer, linear(recv.x), recv.handle)
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert x.grad.dtype == torch.float32 and torch.isfinite(linear.weight.grad).all()


@pytest.mark.ranks(2, cuda=(2, 4))
def test_training_steps_leave_no_memory_behind():
    import gc

    buffer, idx = make_buffer(), routing(64)
    x = torch.randn(64, 256, requires_grad=True)
    weights = torch.rand(64, 2, requires_grad=True)
    held = []
    for _ in range(30):
        moe(buffer, x, idx, weights, expand=True).sum().backward()
        held.append(buffer.arena_bytes)
    assert held[-1] == held[5]
    x.grad = weights.grad = None
    gc.collect()
    buffer.trim()
    assert buffer.arena_bytes == 0 or buffer.device != "cpu"


@pytest.mark.parametrize("expand", [False, True])
def test_compiled_layer_gives_what_the_plain_one_gives(expand):
    buffer = flexep.ElasticBuffer(flexep.Communicator.single())
    compiled = torch.compile(moe, backend="eager")  # what is captured is run as it is: no compiler is needed
    random = generator(5)
    for num_tokens in (4, 7, 0):  # another number of tokens is another graph
        x = torch.randn(num_tokens, 8, generator=random)
        weights = torch.rand(num_tokens, 2, generator=random)
        idx = torch.rand(num_tokens, NUM_EXPERTS, generator=random).topk(2).indices
        results = []
        for layer in (moe, compiled):
            inputs = [x.clone().requires_grad_(), weights.clone().requires_grad_()]
            out = layer(buffer, inputs[0], idx, inputs[1], expand)
            out.square().sum().backward()
            results.append([out, *(tensor.grad for tensor in inputs)])
        for plain, captured in zip(*results, strict=True):
            assert torch.equal(plain, captured)


class Layer(torch.nn.Module):
    """Router, experts, and what lies between them."""

    def __init__(self, buffer):
        super().__init__()
        self.buffer = buffer
        torch.manual_seed(1)
        self.router = torch.nn.Linear(8, NUM_EXPERTS)
        self.experts = torch.nn.ModuleList(torch.nn.Linear(8, 8) for _ in range(NUM_EXPERTS // buffer.num_ranks))

    def forward(self, x):
        probs, idx = self.router(x).softmax(dim=-1).topk(2)
        recv = flexep.torch.dispatch(self.buffer, x, idx, probs, num_experts=NUM_EXPERTS, do_expand=True)
        rows = recv.x.split(recv.handle.num_recv_tokens_per_expert_list)
        y = torch.cat([expert(chunk).relu() for expert, chunk in zip(self.experts, rows, strict=True)])
        return flexep.torch.combine(self.buffer, y * recv.topk_weights[:, None], recv.handle)[0]


@pytest.mark.ranks(2)
def test_compiled_module_learns_as_the_plain_one_does():
    results = []
    for prepared in (lambda layer: layer, lambda layer: torch.compile(layer, backend="aot_eager")):
        plain = Layer(make_buffer())
        layer, optimizer = prepared(plain), torch.optim.SGD(plain.parameters(), lr=0.1)
        for step in range(3):
            x = torch.randn(4 + step, 8, generator=generator(step), requires_grad=True)
            loss = (layer(x) - 1).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        results.append([loss.detach(), x.grad, *(parameter.detach() for parameter in plain.parameters())])
    for plain, compiled in zip(*results, strict=True):
        torch.testing.assert_close(compiled, plain)


@pytest.mark.parametrize("requires_grad", [False, True])
def test_autograd_is_asked_only_where_it_has_something_to_record(requires_grad, monkeypatch):
    buffer = flexep.ElasticBuffer(flexep.Communicator.single())
    recorded = []
    for function in (flexep.torch._Dispatch, flexep.torch._Combine):
        apply = function.apply
        monkeypatch.setattr(
            function, "apply", lambda *args, apply=apply, name=function.__name__: recorded.append(name) or apply(*args)
        )
    x = torch.ones(2, 4)
    out = moe(buffer, x, torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2).requires_grad_(requires_grad), expand=False)
    assert recorded == (["_Dispatch", "_Combine"] if requires_grad else [])
    assert out.requires_grad == requires_grad
    with torch.autograd.forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward mode"):
        dual = torch.autograd.forward_ad.make_dual(x, x)  # whose tangent would be lost
        moe(buffer, dual, torch.tensor([[0, 1], [2, 3]]), torch.ones(2, 2), expand=False)


def test_options_that_change_the_order_of_execution_are_refused_by_name():
    buffer = flexep.ElasticBuffer(flexep.Communicator.single())
    with pytest.raises(TypeError, match="do_cpu_sync"):
        flexep.torch.dispatch(buffer, torch.ones(1, 4), torch.zeros(1, 1, dtype=torch.int64), do_cpu_sync=False)
