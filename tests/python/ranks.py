# SPDX-License-Identifier: Apache-2.0
"""Processes that form a gloo group and run functions together."""

import functools
import multiprocessing
import os
import pickle
import shutil
import socket
import subprocess
import sys
import traceback

_SECONDS = int(os.environ.get("FLEXEP_TEST_SECONDS", "120"))


@functools.cache
def has_gpu():
    # Asks nothing of CUDA: a process that has could not fork ranks any more.
    import torch

    import flexep

    return flexep.has_cuda and torch.version.cuda is not None and os.path.exists("/dev/nvidiactl")


@functools.cache
def num_gpus():
    """As the driver's command tells, for the same reason."""
    if not has_gpu() or not shutil.which("nvidia-smi"):
        return 0
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60).stdout
    return sum(line.startswith("GPU ") for line in listed.splitlines())


def _free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _start(rank, num_ranks, device, port):
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    if device == "cuda":
        torch.cuda.set_device(rank % torch.cuda.device_count())
    torch.set_default_device(device)
    os.environ.setdefault("FLEXEP_TIMEOUT_SECS", "60")
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=num_ranks)


def _serve(rank, num_ranks, device, port, pipe):
    import torch

    try:
        _start(rank, num_ranks, device, port)
        while (task := pipe.recv()) is not None:
            module, name, arguments = task
            torch.manual_seed(1000 + rank)
            getattr(sys.modules[module], name)(**arguments)
            pipe.send(None)
    except BaseException:
        pipe.send(traceback.format_exc())
        # A rank that failed does not come to the others' barriers: its end tells them.
        os._exit(1)
    torch.distributed.destroy_process_group()


class Ranks:
    """`num_ranks` processes, forked off this one, so that they know the functions of the modules loaded here."""

    def __init__(self, num_ranks, device):
        context = multiprocessing.get_context("fork")
        port = _free_port()
        self._pipes, self._processes = [], []
        for rank in range(num_ranks):
            mine, theirs = context.Pipe()
            self._processes.append(context.Process(target=_serve, args=(rank, num_ranks, device, port, theirs)))
            self._processes[-1].start()
            theirs.close()
            self._pipes.append(mine)

    def __len__(self):
        return len(self._processes)

    def run(self, function, arguments):
        """Runs function(**arguments) on all; returns what failed, a text for each rank."""
        task = (function.__module__, function.__name__, arguments)
        for pipe in self._pipes:
            pipe.send(task)
        failures = [self._answer(rank) for rank in range(len(self._pipes))]
        return [failure for failure in failures if failure]

    def _answer(self, rank):
        pipe, process = self._pipes[rank], self._processes[rank]
        try:
            failure = pipe.recv() if pipe.poll(_SECONDS) else f"did not answer within {_SECONDS} s"
        except EOFError:
            process.join()
            failure = f"exit code {process.exitcode}"
        return failure and f"rank {rank}: {failure}"

    def stop(self):
        """Lets all end; returns what failed."""
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(_SECONDS)
        codes = [process.exitcode for process in self._processes]
        return [f"rank {rank}: exit code {code} at its end" for rank, code in enumerate(codes) if code != 0]

    def kill(self):
        for process in self._processes:
            process.kill()
            process.join()
