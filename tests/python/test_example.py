# SPDX-License-Identifier: Apache-2.0
import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip("torch")

_EXAMPLE = pathlib.Path(__file__).parents[2] / "examples/python/moe_layer.py"


def test_moe_layer_learns():
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    output = subprocess.run([*launch, _EXAMPLE], check=True, capture_output=True, text=True, timeout=120).stdout
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", output)]
    assert len(losses) == 4 and losses[-1] < 0.8 * losses[0]
