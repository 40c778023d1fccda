# SPDX-License-Identifier: Apache-2.0
"""A mistake on one rank is an error on all, with its facts; signals end a wait."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid

import pytest

import flexep


def make_buffer(comm, **options):
    from reference import device_name  # needs PyTorch, which not every test here does

    return flexep.ElasticBuffer(comm, device=device_name(), **options)


def test_kinds_of_memory_are_refused_by_name():
    comm = flexep.Communicator.single()
    flexep.ElasticBuffer(comm, arena_memory="device", max_staging_bytes=1 << 20)
    with pytest.raises(flexep.InvalidArgument, match="pinned_host") as error:
        flexep.ElasticBuffer(comm, arena_memory="pinned")
    assert error.value.argument == "arena_memory"
    with pytest.raises(flexep.InvalidArgument, match="its device is the CPU"):
        flexep.ElasticBuffer(comm, arena_memory="pinned_host")


def test_hierarchy_is_that_of_cxx_and_of_python():
    for error in (
        flexep.InvalidArgument,
        flexep.CollectiveMismatch,
        flexep.PeerError,
        flexep.TimeoutError,
        flexep.TransportError,
        flexep.CudaError,
        flexep.OutOfMemory,
    ):
        assert issubclass(error, flexep.Error)
    assert issubclass(flexep.TimeoutError, TimeoutError)
    assert issubclass(flexep.InvalidArgument, ValueError)
    assert issubclass(flexep.OutOfMemory, MemoryError)


@pytest.mark.ranks(2)
def test_bad_id_is_an_error_on_both_ranks_and_the_group_stays_usable():
    import torch

    comm = flexep.Communicator.from_process_group()
    buffer = make_buffer(comm)
    x = torch.zeros(1, 8)
    bad = torch.tensor([[9 if comm.rank == 0 else 0]])
    with pytest.raises(flexep.InvalidArgument if comm.rank == 0 else flexep.PeerError) as error:
        buffer.dispatch(x, topk_idx=bad, num_experts=2)
    if comm.rank == 0:
        assert error.value.argument == "topk_idx"
    else:
        assert error.value.rank == 0
    assert buffer.dispatch(x, topk_idx=torch.zeros(1, 1, dtype=torch.int64), num_experts=2)


@pytest.mark.ranks(2)
def test_different_arguments_name_the_field_and_each_value():
    import torch

    comm = flexep.Communicator.from_process_group()
    buffer = make_buffer(comm)
    idx = torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(flexep.CollectiveMismatch) as error:
        buffer.dispatch(torch.zeros(1, 8), topk_idx=idx, num_experts=2 + 2 * comm.rank)
    assert error.value.field == "num_experts" and error.value.values == ["2", "4"]


@pytest.mark.ranks(2, cuda=())  # a communicator has no device
def test_rank_that_does_not_come_is_named():
    import torch.distributed as dist

    comm = flexep.Communicator.from_process_group(timeout=0.2)
    if comm.rank == 0:
        with pytest.raises(flexep.TimeoutError) as error:
            comm.barrier()
        assert error.value.missing_ranks == [1] and error.value.operation
        with pytest.raises(flexep.TransportError):
            comm.barrier()
    dist.barrier()


def test_rank_that_is_killed_is_named():
    numpy = pytest.importorskip("numpy")
    job = uuid.uuid4().hex
    program = f"""
import flexep, os, signal
buffer = flexep.ElasticBuffer(flexep.Communicator.from_job("{job}", 1, 2))
os.kill(os.getpid(), signal.SIGKILL)
"""
    with subprocess.Popen([sys.executable, "-c", program]) as other:
        buffer = flexep.ElasticBuffer(flexep.Communicator.from_job(job, 0, 2))
        x, ids = numpy.zeros((1, 8), numpy.float32), numpy.zeros((1, 1), numpy.int64)
        with pytest.raises(flexep.TransportError, match="rank 1"):
            buffer.dispatch(x, topk_idx=ids, num_experts=2)
    assert other.returncode == -signal.SIGKILL


@pytest.mark.ranks(2)
def test_memory_limit_is_told_to_both():
    import torch

    comm = flexep.Communicator.from_process_group()
    buffer = make_buffer(comm, max_arena_bytes=8 << 20 if comm.rank == 1 else 0)
    idx = torch.ones(2000, 1, dtype=torch.int64)
    with pytest.raises(flexep.OutOfMemory if comm.rank == 1 else flexep.PeerError):
        buffer.dispatch(torch.zeros(2000, 1024), topk_idx=idx, num_experts=2)


@pytest.mark.ranks(2, cuda=())  # a communicator has no device
def test_ctrl_c_ends_a_wait_and_tells_the_other_rank():
    comm = flexep.Communicator.from_process_group()
    if comm.rank == 0:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            comm.barrier()
    else:
        time.sleep(0.6)
        with pytest.raises(flexep.TransportError):
            comm.barrier()


@pytest.mark.ranks(2, cuda=())  # where counts are exchanged by kernels that have started
def test_ctrl_c_ends_an_asynchronous_dispatch_that_waits_for_counts():
    import torch

    comm = flexep.Communicator.from_process_group()
    buffer = make_buffer(comm)
    arguments = {"topk_idx": torch.zeros(1, 1, dtype=torch.int64), "num_experts": 2}
    if comm.rank == 0:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            buffer.dispatch(torch.zeros(1, 8), **arguments, async_with_compute_stream=True)
    else:
        time.sleep(0.6)
        with pytest.raises(flexep.TransportError):
            buffer.dispatch(torch.zeros(1, 8), **arguments)


@pytest.mark.ranks(2, cuda=())  # which waits for kernels
def test_ctrl_c_ends_the_end_of_a_buffer_with_an_operation_in_flight():
    import torch
    import torch.distributed as dist

    comm = flexep.Communicator.from_process_group()
    buffer = make_buffer(comm, num_max_tokens_per_rank=1)
    if comm.rank == 0:
        ids = torch.zeros(1, 1, dtype=torch.int64)
        received = buffer.dispatch(
            torch.zeros(1, 8), topk_idx=ids, num_experts=2, do_cpu_sync=False, async_with_compute_stream=True
        )
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            del buffer
            while True:
                time.sleep(0.01)
        with pytest.raises(flexep.TransportError):
            received.event.wait()
    dist.barrier()


@pytest.mark.ranks(2, cuda=())  # a communicator has no device
def test_other_python_threads_run_during_a_wait():
    comm = flexep.Communicator.from_process_group()
    if comm.rank == 0:
        steps = []
        worker = threading.Thread(target=lambda: steps.extend(time.sleep(0.01) or step for step in range(10)))
        worker.start()
        comm.barrier()
        assert len(steps) == 10
        worker.join()
    else:
        time.sleep(1.0)
        comm.barrier()
