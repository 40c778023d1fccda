# SPDX-License-Identifier: Apache-2.0
"""With the folder above this one on PYTHONPATH, `import deep_ep` gives flexep's."""

from flexep.deep_ep import install

install()
