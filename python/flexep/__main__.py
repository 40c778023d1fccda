# SPDX-License-Identifier: Apache-2.0
"""python -m flexep ...: the command `flexep`."""

from ._command import main

main()
