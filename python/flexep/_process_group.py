# SPDX-License-Identifier: Apache-2.0
"""How the ranks of a torch.distributed process group find each other's memory."""

from __future__ import annotations

import pathlib
import uuid
from typing import Any

from ._core import Communicator
from .errors import InvalidArgument

_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


def open_group(group: Any = None, timeout: float | None = None) -> Communicator:
    """The ranks of `group` (None: the default group), which must be processes of one machine. Collective."""
    import torch.distributed as dist

    mine = (uuid.uuid4().hex, _BOOT_ID.read_text().strip())
    all_ranks: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(all_ranks, mine, group=group)
    machines = [machine for _, machine in all_ranks]
    if len(set(machines)) != 1:
        strangers = [rank for rank, machine in enumerate(machines) if machine != machines[0]]
        raise InvalidArgument(
            f"ranks {strangers} run on other machines than rank 0: ranks on several machines are not supported yet",
            "group",
        )
    # Rank 0's random name: no other group of any job has it.
    return Communicator.from_job(all_ranks[0][0], dist.get_rank(group), len(all_ranks), timeout)
