# SPDX-License-Identifier: Apache-2.0
"""Process groups over several domains, and what is said of machines that cannot be reached."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

pytest.importorskip("torch")

import flexep
from flexep import _process_group
from ranks import has_gpu

_FOLDER = pathlib.Path(__file__).parent
_MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]


def has_mpi():
    package = pathlib.Path(flexep.__file__).parent
    return shutil.which("mpirun") and any(
        [*package.glob("lib*/libflexep_mpi.so*"), *package.parents[1].glob("src/mpi_library/libflexep_mpi.so*")]
    )


@pytest.mark.skipif(not has_mpi(), reason="there is no mpirun, or flexep is built without MPI")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_ranks_of_two_domains(device, tmp_path):
    environment = os.environ | {"FLEXEP_SCALEUP_SIZE": "2", "FLEXEP_TIMEOUT_SECS": "60"}
    if device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    elif not has_gpu():
        pytest.skip("there is no GPU, or PyTorch or flexep is built without CUDA")
    program = [sys.executable, _FOLDER / "over_domains.py", tmp_path / "store", device]
    done = subprocess.run([*_MPIRUN, "-n", "4", *program], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("is content") == 4


def test_ranks_of_machines_that_torchrun_has_started_are_told_what_to_do():
    places = [
        _process_group._Place(str(rank), machine, num_mpi_ranks)
        for rank, (machine, num_mpi_ranks) in enumerate([("a", None), ("a", None), ("b", 4)])
    ]
    with pytest.raises(flexep.InvalidArgument, match="mpirun or srun") as error:
        _process_group._require_mpi(places)
    assert error.value.argument == "group"
    assert "ranks [2] of the process group" in str(error.value) and "started ranks [0, 1]" in str(error.value)
