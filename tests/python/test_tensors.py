# SPDX-License-Identifier: Apache-2.0
"""Tensors go in and out without copies, and live as long as somebody holds them."""

import gc

import pytest

np = pytest.importorskip("numpy")

import flexep


@pytest.fixture
def buffer():
    return flexep.ElasticBuffer(flexep.Communicator.single())


def dispatched(buffer, x, **options):
    idx = np.zeros((len(x), 1), dtype=np.int64)
    return buffer.dispatch(x, topk_idx=idx, num_experts=1, **options)


def test_numpy_rows_arrive_as_they_were(buffer):
    x = np.random.default_rng(1).standard_normal((5, 8)).astype(np.float32)
    received = dispatched(buffer, x)
    assert received.x.shape == (5, 8) and received.x.dtype == "fp32" and received.x.is_contiguous()
    assert np.array_equal(np.from_dlpack(received.x), x)


def test_output_is_shared_not_copied(buffer):
    tensor = buffer.empty((2, 4), "fp32")
    first, second = np.from_dlpack(tensor), np.from_dlpack(tensor)
    first[:] = 7
    assert (second == 7).all()


def test_read_only_rows_are_accepted_and_statistics_are_not_written_to_them(buffer):
    x = np.ones((3, 4), dtype=np.float32)
    x.flags.writeable = False
    dispatched(buffer, x)
    stats = np.zeros(1, dtype=np.int32)
    dispatched(buffer, x, cumulative_local_expert_recv_stats=stats)
    assert stats.tolist() == [3]
    stats.flags.writeable = False
    with pytest.raises(flexep.InvalidArgument, match="cumulative_local_expert_recv_stats"):
        dispatched(buffer, x, cumulative_local_expert_recv_stats=stats)


def test_arena_memory_goes_back_when_the_last_view_dies(buffer):
    x = np.ones((1000, 1024), dtype=np.float32)
    views = [np.from_dlpack(dispatched(buffer, x).x) for _ in range(2)]
    held = buffer.arena_bytes
    for _ in range(20):
        views = [*views[1:], np.from_dlpack(dispatched(buffer, x).x)]
    assert buffer.arena_bytes <= 2 * held
    del views
    gc.collect()
    buffer.trim()
    assert buffer.arena_bytes == 0


def test_tensor_outlives_its_buffer(buffer):
    x = np.arange(32, dtype=np.float64).reshape(4, 8)
    received = dispatched(buffer, x)
    tensor, handle = received.x, received.handle
    del received, buffer
    gc.collect()
    assert np.array_equal(np.from_dlpack(tensor), x)
    assert np.from_dlpack(handle.num_recv_tokens_per_expert).tolist() == [4]


def test_inputs_live_as_long_as_an_asynchronous_operation_needs_them(buffer):
    for round in range(20):
        x = np.full((64, 64), round, dtype=np.float32)
        received = dispatched(buffer, x, async_with_compute_stream=True)
        del x
        np.full((64, 64), -1, dtype=np.float32)
        received.event.wait()
        assert (np.from_dlpack(received.x) == round).all()


def test_strangers_are_refused_by_name(buffer):
    with pytest.raises(flexep.InvalidArgument) as error:
        buffer.dispatch("rows")
    assert error.value.argument == "x"
    with pytest.raises(flexep.InvalidArgument, match="element type"):
        buffer.dispatch(np.zeros((1, 4), dtype=np.complex64))


def test_torch_types_arrive_as_they_were(buffer):
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn, torch.int8):
        x = torch.arange(64).reshape(2, 32).to(dtype)
        received = torch.from_dlpack(dispatched(buffer, x).x)
        assert received.dtype == dtype and torch.equal(received.view(torch.uint8), x.view(torch.uint8))
