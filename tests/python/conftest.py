# SPDX-License-Identifier: Apache-2.0
"""Tests over ranks: `@pytest.mark.ranks(2, 4)` runs a test in that many processes, which form a gloo group."""

import multiprocessing
import os
import pickle
import socket
import traceback

import pytest

_SECONDS = 120


def pytest_configure(config):
    config.addinivalue_line("markers", "ranks(*sizes): run in so many processes, once for each size")


def pytest_generate_tests(metafunc):
    mark = metafunc.definition.get_closest_marker("ranks")
    if mark is not None:
        metafunc.fixturenames.append("num_ranks")
        metafunc.parametrize("num_ranks", mark.args)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    if pyfuncitem.get_closest_marker("ranks") is None:
        return None
    pytest.importorskip("torch", reason="PyTorch is not installed")
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    run_ranks(pyfuncitem.obj, pyfuncitem.callspec.params["num_ranks"], arguments)
    return True


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _run_rank(body, rank, num_ranks, port, arguments, results):
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    torch.manual_seed(1000 + rank)
    os.environ.setdefault("FLEXEP_TIMEOUT_SECS", "60")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_ranks)
    try:
        body(**arguments)
    except BaseException:
        results.send_bytes(pickle.dumps(traceback.format_exc()))
        # A rank that failed does not come to the others' barriers: its end tells them.
        os._exit(1)
    results.send_bytes(pickle.dumps(None))
    dist.destroy_process_group()


def run_ranks(body, num_ranks, arguments):
    """Runs body(**arguments) in `num_ranks` processes; fails with the first failure's traceback."""
    context = multiprocessing.get_context("fork")
    port = _free_port()
    pipes = [context.Pipe(duplex=False) for _ in range(num_ranks)]
    processes = [
        context.Process(target=_run_rank, args=(body, rank, num_ranks, port, arguments, pipes[rank][1]))
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    failures = []
    for rank, (process, (receiver, sender)) in enumerate(zip(processes, pipes, strict=True)):
        sender.close()
        process.join(_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            failures.append(f"rank {rank} did not end within {_SECONDS} s")
            continue
        failure = pickle.loads(receiver.recv_bytes()) if receiver.poll() else f"exit code {process.exitcode}"
        if failure or process.exitcode:
            failures.append(f"rank {rank}: {failure or f'exit code {process.exitcode}'}")
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)
