# SPDX-License-Identifier: Apache-2.0
"""python -m flexep.run_as_deep_ep (script.py | -m module) [arguments]: runs a program whose `deep_ep` is flexep.

--print-path prints a folder: with it on PYTHONPATH, `import deep_ep` gives flexep in every program.
"""

import os
import runpy
import sys

from . import deep_ep


def main() -> None:
    arguments = sys.argv[1:]
    if not arguments or arguments == ["-m"]:
        sys.exit("usage: python -m flexep.run_as_deep_ep (script.py | -m module | --print-path) [arguments]")
    if arguments == ["--print-path"]:
        print(os.path.join(os.path.dirname(os.path.abspath(__file__)), "as_deep_ep"))
        return
    deep_ep.install()
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        sys.path.insert(0, os.path.dirname(os.path.abspath(arguments[0])))
        runpy.run_path(arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
