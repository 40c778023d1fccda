# SPDX-License-Identifier: Apache-2.0
"""How the ranks of a torch.distributed process group find each other: in shared memory, or over MPI where they are on several machines."""

from __future__ import annotations

import pathlib
import uuid
from typing import Any, NamedTuple

from ._core import Communicator, mpi_environment
from .errors import InvalidArgument

_BOOT_ID = pathlib.Path("/proc/sys/kernel/random/boot_id")


class _Place(NamedTuple):
    """Where a rank runs, as it tells the others."""

    random_name: str
    machine: str
    num_mpi_ranks: int | None  # that a launcher of MPI has started


def open_group(group: Any = None, timeout: float | None = None) -> Communicator:
    """The ranks of `group` (None: the default group). Collective; over several machines, over all ranks of the MPI job."""
    import torch.distributed as dist

    rank = dist.get_rank(group)
    places = _gathered(_place_of(rank), group)
    machines = [place.machine for place in places]
    if len(set(machines)) == 1:
        # Rank 0's random name: no other group of any job has it.
        return Communicator.from_job(places[0].random_name, rank, len(places), timeout)
    _require_mpi(places)
    world = Communicator.from_mpi(timeout=timeout)
    world_ranks = _gathered(world.rank, group)
    if world_ranks == list(range(world.num_ranks)):
        return world
    return world.split(color=min(world_ranks), key=rank)


def _gathered(mine: Any, group: Any) -> list[Any]:
    import torch.distributed as dist

    everybody: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(everybody, mine, group=group)
    return everybody


def _place_of(rank: int) -> _Place:
    num_mpi_ranks, scaleup_size = mpi_environment()
    machine = _BOOT_ID.read_text().strip()
    if num_mpi_ranks and scaleup_size:  # one machine plays several
        machine += f", domain {rank // scaleup_size}"
    return _Place(uuid.uuid4().hex, machine, num_mpi_ranks)


def _require_mpi(places: list[_Place]) -> None:
    without = [rank for rank, place in enumerate(places) if not place.num_mpi_ranks]
    if not without:
        return
    strangers = [rank for rank, place in enumerate(places) if place.machine != places[0].machine]
    raise InvalidArgument(
        f"ranks {strangers} of the process group run on other machines than rank 0. flexep reaches those over MPI, and no "
        f"launcher of MPI has started ranks {without}: start the program with mpirun or srun instead of torchrun, and build "
        "flexep with FLEXEP_WITH_MPI=ON (docs/python.md, Several machines)",
        "group",
    )
