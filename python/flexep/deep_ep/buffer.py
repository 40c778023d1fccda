# SPDX-License-Identifier: Apache-2.0
"""DeepEP's older interface, which is not there yet."""

from typing import Any


class Buffer:
    """The older `Buffer` of DeepEP."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError(
            "flexep does not have DeepEP's older Buffer yet: use ElasticBuffer (in Megatron-Core: "
            "moe_flex_dispatcher_backend='deepepv2')"
        )
