# SPDX-License-Identifier: Apache-2.0
"""Streams, events and memory of a GPU: operations follow PyTorch's current stream, and no memory is reused too early."""

import gc
import os
import random
import signal
import threading

import pytest

torch = pytest.importorskip("torch")
import torch.distributed as dist

import flexep
import flexep.torch
from flexep import deep_ep
from ranks import num_gpus
from reference import device_name, generator

HIDDEN, NUM_EXPERTS, NUM_TOPK = 256, 8, 3


def make_buffer():
    return deep_ep.ElasticBuffer(dist.group.WORLD, num_max_tokens_per_rank=512, hidden=HIDDEN)


def make_core_buffer():
    return flexep.ElasticBuffer(flexep.Communicator.from_process_group(), device=device_name())


class Batch:
    """Tokens of whole numbers, and their sums over experts that multiply by powers of two, which are exact."""

    def __init__(self, num_tokens, numbers):
        self.x = torch.randint(-8, 9, (num_tokens, HIDDEN), generator=numbers).float()
        self.topk_idx = torch.rand(num_tokens, NUM_EXPERTS, generator=numbers).topk(NUM_TOPK).indices
        self.sums = self.x * (2.0**self.topk_idx).sum(dim=1)[:, None]


def expert_outputs(rows, handle):
    """Expert e multiplies by 2^e. The host does not wait."""
    counts = torch.tensor(handle.num_recv_tokens_per_expert_list)
    experts = torch.arange(len(counts)) + dist.get_rank() * len(counts)
    return rows * (2.0**experts).repeat_interleave(counts, output_size=len(rows))[:, None]


def keep_busy(stream, choices):
    """For up to some 250 us."""
    with torch.cuda.stream(stream):
        torch.cuda._sleep(choices.randrange(500_000))


@pytest.mark.ranks(cuda=(2, 4, 8))
def test_no_row_is_wrong_under_random_delays_and_early_deletion():
    buffer, side = make_buffer(), torch.cuda.Stream()
    numbers, choices = generator(dist.get_rank()), random.Random(dist.get_rank())
    choices_of_all = random.Random(5)
    wrong = torch.zeros((), dtype=torch.int64)
    for _ in range(200):
        on_side, is_async, after_event = (choices_of_all.random() < 0.5 for _ in range(3))
        stream = side if on_side else torch.cuda.current_stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            keep_busy(stream, choices)
            batch = Batch(choices.randrange(1, 400), numbers)
            options = {"async_with_compute_stream": is_async}
            if after_event:
                options |= {"previous_event": buffer.capture(), "allocate_on_comm_stream": True}
                keep_busy(stream, choices)
            rows, _, _, handle, event = buffer.dispatch(
                batch.x, batch.topk_idx, num_experts=NUM_EXPERTS, do_expand=True, **options
            )
            batch.x = batch.topk_idx = None  # while they may still be read
            if is_async:
                event.current_stream_wait(release_handle=True)
            y = expert_outputs(rows, handle)
            del rows
            if after_event:
                options["previous_event"] = buffer.capture()
            sums, _, event = buffer.combine(y, handle, **options)
            del y
            keep_busy(buffer.get_comm_stream(), choices)
            if is_async:
                with event:
                    pass
            wrong += (sums != batch.sums).any(dim=1).sum()
            del sums
        torch.cuda.current_stream().wait_stream(side)
    assert wrong.item() == 0
    buffer.check()


@pytest.mark.ranks(cuda=(2, 4))
def test_saved_activations_of_many_layers_give_their_memory_back():
    buffer, numbers = make_core_buffer(), generator(dist.get_rank())
    gains = [torch.rand(HIDDEN, generator=numbers).requires_grad_() for _ in range(58)]
    batches = [Batch(128, numbers) for _ in range(4)]

    def forward(x, topk_idx):
        for gain in gains:
            received = flexep.torch.dispatch(buffer, x, topk_idx, num_experts=NUM_EXPERTS, do_expand=True)
            x = flexep.torch.combine(buffer, received.x * gain / NUM_TOPK, received.handle)[0]
        return x

    held_by_torch, held = [], []
    for _ in range(3):
        outputs = [forward(batch.x, batch.topk_idx) for batch in batches]
        for output in outputs:
            output.sum().backward()
        del output, outputs
        buffer.check()  # lets go of what the last operations kept
        held_by_torch.append(torch.cuda.memory_allocated())
        held.append(buffer.arena_bytes)
    assert held_by_torch[1:] == held_by_torch[1:2] * 2
    # How much of what a backward pass has used is given back while it runs is a matter of timing.
    num_bytes = held[-1]
    assert 4 * len(gains) * 128 * HIDDEN * 4 < num_bytes <= 1.25 * held[1]
    # It is free again, in large pieces.
    large = buffer.empty((num_bytes // 4,), "uint8", torch.cuda.current_stream().cuda_stream)
    assert buffer.arena_bytes == num_bytes and large.device == device_name()


@pytest.mark.ranks(cuda=(2,))
def test_memory_goes_back_behind_the_streams_that_were_recorded():
    buffer, side, numbers = make_buffer(), torch.cuda.Stream(), generator(dist.get_rank())
    for _ in range(20):
        batch = Batch(256, numbers)
        rows, *_ = buffer.dispatch(batch.x, batch.topk_idx, num_experts=NUM_EXPERTS)
        expected = rows.clone()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            torch.cuda._sleep(2_000_000)
            seen = rows.clone()
        flexep.torch.record_stream(rows, side)
        del rows
        for _ in range(3):
            buffer.empty((256 * NUM_EXPERTS, HIDDEN), torch.float32).fill_(-1)
        torch.cuda.current_stream().wait_stream(side)
        assert torch.equal(seen, expected)


@pytest.mark.ranks(cuda=(2,))
def test_tensors_of_the_core_are_complete_for_the_stream_that_takes_them():
    buffer, side, numbers = make_core_buffer(), torch.cuda.Stream(), generator(dist.get_rank())
    batch = Batch(256, numbers)
    for _ in range(20):
        torch.cuda._sleep(1_000_000)
        batch.x.add_(1)
        received = buffer.dispatch(batch.x, topk_idx=batch.topk_idx, num_experts=NUM_EXPERTS)
        with torch.cuda.stream(side):
            rows = torch.from_dlpack(received.x)
            copy = rows.clone()
        assert rows.data_ptr() == torch.from_dlpack(received.x).data_ptr()
        assert received.x.__dlpack_device__() == (2, torch.cuda.current_device())
        torch.cuda.synchronize()
        assert torch.equal(copy, received.x.to_library(torch.Tensor)) and copy.min() > -8
        del rows, received


@pytest.mark.ranks(cuda=(2,))
def test_tensors_outlive_their_buffer():
    buffer, batch = make_core_buffer(), Batch(64, generator(dist.get_rank()))
    received = buffer.dispatch(batch.x, topk_idx=batch.topk_idx, num_experts=NUM_EXPERTS)
    rows, handle = received.x.to_library(torch.Tensor), received.handle
    expected = rows.clone()
    del received, buffer
    gc.collect()
    torch.cuda.synchronize()
    assert torch.equal(rows, expected) and handle.num_recv_tokens == len(rows)


@pytest.mark.skipif(num_gpus() < 2, reason="NCCL has one rank for each GPU, and there are no two")
@pytest.mark.ranks(cuda=(2,))
def test_ranks_of_a_group_of_nccl_meet():
    group = dist.new_group(backend="nccl")
    total, numbers = torch.ones(1), generator(dist.get_rank())
    for buffer in (deep_ep.ElasticBuffer(group, num_max_tokens_per_rank=512, hidden=HIDDEN), make_buffer()):
        for _ in range(20):  # beside NCCL's own kernels
            batch = Batch(300, numbers)
            rows, _, _, handle, _ = buffer.dispatch(batch.x, batch.topk_idx, num_experts=NUM_EXPERTS, do_expand=True)
            dist.all_reduce(total, group=group)
            sums, _, _ = buffer.combine(expert_outputs(rows, handle), handle)
            assert torch.equal(sums, batch.sums)
    assert total.item() == 2**40
    assert deep_ep.Buffer(group).group_size == 2


@pytest.mark.ranks(cuda=(2,))
def test_buffers_of_a_process_share_a_communication_stream():
    first, second = make_buffer(), make_buffer()
    assert first.get_comm_stream() == second.get_comm_stream() != torch.cuda.current_stream()
    assert first.get_comm_stream().device == torch.device(device_name())
    assert deep_ep.Buffer(dist.group.WORLD).get_comm_stream() == first.get_comm_stream()


@pytest.mark.ranks(cuda=(2,))
def test_events_hold_back_streams_and_not_the_host():
    side, gate = torch.cuda.Stream(), torch.zeros(1)
    torch.cuda._sleep(20_000_000)
    gate.fill_(1)
    event = deep_ep.EventOverlap(deep_ep.EventHandle())
    with torch.cuda.stream(side):
        with event:
            pass
        assert not event.event.event.is_done()
        seen = gate.clone()
    torch.cuda.synchronize()
    assert seen.item() == 1 and event.event.event.is_done()


@pytest.mark.ranks(cuda=(2,))
def test_tensors_of_the_host_are_refused_by_name():
    buffer = make_core_buffer()
    ids = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(flexep.InvalidArgument, match="in memory of host") as error:
        buffer.dispatch(torch.zeros(1, 8, device="cpu"), topk_idx=ids, num_experts=2)
    assert error.value.argument == "x"


@pytest.mark.ranks(cuda=(1,))
def test_arrays_of_cupy_go_in_and_out():
    cupy = pytest.importorskip("cupy")
    buffer = flexep.ElasticBuffer(flexep.Communicator.single(), device=device_name())
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        x = cupy.arange(32, dtype=cupy.float32).reshape(2, 16)
        ids = cupy.zeros((2, 1), dtype=cupy.int64)
        received = buffer.dispatch(x, topk_idx=ids, num_experts=1, stream=stream.ptr)
        assert (cupy.from_dlpack(received.x) == x).all()
        del received  # before the stream, behind which it goes back


@pytest.mark.ranks(cuda=(2, 4))
def test_replays_of_a_captured_layer_follow_what_lies_in_its_inputs():
    comm = flexep.Communicator.from_process_group()
    buffer = flexep.ElasticBuffer(comm, device=device_name(), num_max_tokens_per_rank=64)
    numbers, counts = generator(comm.rank), random.Random(comm.rank)
    batch, num_tokens = Batch(64, numbers), torch.zeros(1, dtype=torch.int32)

    def layer():
        received = buffer.dispatch(
            batch.x, topk_idx=batch.topk_idx, num_tokens=num_tokens, num_experts=NUM_EXPERTS, do_cpu_sync=False
        )
        y = received.x.to_library(torch.Tensor) * 2
        return buffer.combine(y, handle=received.handle).tensors(torch.Tensor)[0]

    layer()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sums = layer()
    for _ in range(20):
        count, new = counts.randrange(65), Batch(64, numbers)
        for kept, value in ((batch.x, new.x), (batch.topk_idx, new.topk_idx), (num_tokens, count)):
            kept.copy_(torch.as_tensor(value))
        graph.replay()
        owners = batch.topk_idx[:count] // (NUM_EXPERTS // comm.num_ranks)
        num_owners = torch.nn.functional.one_hot(owners, comm.num_ranks).amax(dim=1).sum(dim=1)
        assert torch.equal(sums[:count], batch.x[:count] * 2 * num_owners[:, None])
    buffer.check()


@pytest.mark.ranks(cuda=(2,))
def test_ctrl_c_ends_a_wait_for_counts():
    buffer = make_core_buffer()
    arguments = {"topk_idx": torch.zeros(1, 1, dtype=torch.int64), "num_experts": 2}
    if dist.get_rank() == 0:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            buffer.dispatch(torch.zeros(1, 8), **arguments)
        with pytest.raises(flexep.TransportError):
            buffer.dispatch(torch.zeros(1, 8), **arguments)
        dist.barrier()
    else:
        dist.barrier()
        buffer.dispatch(torch.zeros(1, 8), **arguments)  # for which the kernel of rank 0 has waited all the time
        with pytest.raises(flexep.PeerError):
            buffer.dispatch(torch.zeros(1, 8), **arguments)


@pytest.mark.ranks(cuda=(1,))
def test_types_arrive_as_they_were():
    buffer = flexep.ElasticBuffer(flexep.Communicator.single(), device=device_name())
    ids = torch.zeros(2, 1, dtype=torch.int64)
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int8):
        x = torch.arange(64).reshape(2, 32).to(dtype)
        received = torch.from_dlpack(buffer.dispatch(x, topk_idx=ids, num_experts=1).x)
        assert received.dtype == dtype and torch.equal(received, x)
