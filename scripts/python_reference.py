#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""python scripts/python_reference.py [FOLDER]: the reference of the Python package, from its docstrings, as HTML.

With flexep importable, and PyTorch for what needs it. FOLDER defaults to build/python-reference.
"""

import importlib
import os
import pathlib
import pydoc
import sys

MODULES = [
    "flexep",
    "flexep.deep_ep",
    "flexep.deep_ep.buffer",
    "flexep.deep_ep.elastic",
    "flexep.deep_ep.event",
    "flexep.deep_ep.handle",
    "flexep.errors",
    "flexep.moe",
    "flexep.torch",
]


def main() -> None:
    folder = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "build/python-reference")
    folder.mkdir(parents=True, exist_ok=True)
    modules = [importlib.import_module(name) for name in MODULES]  # perhaps from a relative path
    os.chdir(folder)  # where pydoc writes
    for module in modules:
        pydoc.writedoc(module)


if __name__ == "__main__":
    main()
