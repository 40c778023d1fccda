# SPDX-License-Identifier: Apache-2.0
"""The command `flexep`, which the package brings along: from Python, and as `python -m flexep`."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from ._core import has_cuda
from .errors import Error

_COMMAND = pathlib.Path(__file__).parent / "bin" / "flexep"


def command_path() -> str:
    """Where the command is. @throws Error where the package was built without it."""
    if not _COMMAND.exists():
        raise Error("this build of flexep has no command: configure it with FLEXEP_BUILD_TOOLS=ON")
    return str(_COMMAND)


def check(*, cases: int = 60, seed: int = 1, device: str | None = None, **options: Any) -> str:
    """Holds random dispatches and combines against the reference on this machine; returns the summary.

    Without `device` it does so on the CPU, and on the GPU where this build can use one. `options` are those of `flexep check`:
    `ranks=[2, 4]` is `--ranks 2 4`. Raises Error, with what was found, if a case fails.
    """
    devices = [device] if device else ["cpu", "cuda"] if _has_gpu() else ["cpu"]
    options |= {"cases": cases, "seed": seed}
    return "".join(_run("check", {"device": device} | _DEFAULTS.get(device, {}) | options) for device in devices)


def bench(**options: Any) -> dict[str, Any]:
    """Measures dispatch and combine on this machine, as `flexep bench` does; returns what its --json writes.

    `options` are those of `flexep bench`: `num_sms=1` is `--num-sms 1`.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = os.path.join(folder, "bench.json")
        _run("bench", options | {"json": report})
        return json.loads(pathlib.Path(report).read_text())


def main() -> None:
    """Becomes the command, with this program's arguments."""
    try:
        path = command_path()
    except Error as error:
        sys.exit(str(error))
    os.execv(path, ["flexep", *sys.argv[1:]])


# Processes that share a GPU need its multi-process service, which threads do not.
_DEFAULTS = {"cpu": {}, "cuda": {"transport": "in_process"}}


def _has_gpu() -> bool:
    # Asks nothing of CUDA, which a program may want to start in other processes.
    return has_cuda and os.path.exists("/dev/nvidiactl")


def _run(subcommand: str, options: dict[str, Any]) -> str:
    arguments = [word for name, value in options.items() for word in _words(name, value)]
    # Ranks of a job of the caller's are none of the command's.
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(
        [command_path(), subcommand, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise Error(f"flexep {subcommand} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


def _words(name: str, value: Any) -> list[str]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [f"--{name.replace('_', '-')}", *(str(each) for each in values)]
