# SPDX-License-Identifier: Apache-2.0
"""What flexep raises: the C++ hierarchy, with its facts as attributes. docs/errors.md says what to do about each."""

import builtins


class Error(RuntimeError):
    """Base of everything that flexep raises on purpose."""


class InvalidArgument(Error, ValueError):
    """An argument that this rank passed is wrong. Nothing was written; the group stays usable."""

    def __init__(self, what: str, argument: str = "") -> None:
        super().__init__(what)
        self.argument = argument


class CollectiveMismatch(Error):
    """Ranks called the same operation with arguments that must agree and do not. The group stays usable."""

    def __init__(self, what: str, field: str = "", values: list[str] | None = None) -> None:
        super().__init__(what)
        self.field = field
        self.values = values or []  # by rank


class PeerError(Error):
    """Another rank could not take part and said why. The group stays usable."""

    def __init__(self, what: str, rank: int = -1) -> None:
        super().__init__(what)
        self.rank = rank


class TimeoutError(Error, builtins.TimeoutError):
    """A deadline ran out. The group is poisoned."""

    def __init__(
        self, what: str, missing_ranks: list[int] | None = None, operation: str = "", sequence_number: int = 0
    ) -> None:
        super().__init__(what)
        self.missing_ranks = missing_ranks or []
        self.operation = operation
        self.sequence_number = sequence_number


class TransportError(Error):
    """The group is broken: a rank is gone, left or aborted, or the system refused a resource."""

    def __init__(self, what: str, failed_ranks: list[int] | None = None) -> None:
        super().__init__(what)
        self.failed_ranks = failed_ranks or []


class CudaError(Error):
    """CUDA refused something that is not memory, or a kernel failed. The GPU may be unusable for this process."""


class OutOfMemory(Error, MemoryError):
    """Memory could not be had; the text says what was asked for and what would fit."""
