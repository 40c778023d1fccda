# SPDX-License-Identifier: Apache-2.0
"""DeepEP's Python interface on flexep: programs written for `deep_ep` run unmodified, on CPUs and GPUs.

`python -m flexep.run_as_deep_ep program.py` makes this module `deep_ep` for a whole program; `install()` does so for
the interpreter that calls it. docs/from-deepep.md says what is the same, what is better and what is missing.
"""

import sys

import torch

from .. import __version__
from . import utils
from .buffer import Buffer
from .config import Config
from .elastic import ElasticBuffer
from .event import EventHandle, EventOverlap
from .handle import EPHandle

EPBuffer = ElasticBuffer
topk_idx_t = torch.int64

__all__ = [
    "Buffer",
    "Config",
    "EPBuffer",
    "EPHandle",
    "ElasticBuffer",
    "EventHandle",
    "EventOverlap",
    "__version__",
    "install",
    "topk_idx_t",
    "utils",
]


def install() -> None:
    """From now on `import deep_ep` gives this module in this interpreter."""
    sys.modules["deep_ep"] = sys.modules[__name__]
    for name in ("buffer", "config", "elastic", "event", "handle", "utils"):
        sys.modules[f"deep_ep.{name}"] = sys.modules[f"{__name__}.{name}"]
