# SPDX-License-Identifier: Apache-2.0
"""Events of asynchronous operations. The compute stream is PyTorch's current one; on the CPU, the calling thread."""

from __future__ import annotations

from typing import Any, Callable

from .. import ElasticBuffer as CoreBuffer
from .. import Event, InvalidArgument
from .._torch_tensor import current_stream, let_current_stream_wait


class EventHandle:
    """A moment that the compute stream can wait for; made without arguments, the present one."""

    def __init__(self, event: Event | None = None) -> None:
        self.event = CoreBuffer.capture(current_stream()) if event is None else event

    def current_stream_wait(self) -> None:
        let_current_stream_wait(self.event)


class EventOverlap:
    """An event, and what must live or happen until it is waited for.

    `with event: ...` overlaps its body with the operation and waits at the end.
    """

    def __init__(
        self,
        event: EventHandle | None = None,
        extra_tensors: tuple | None = None,
        hook: Callable[[], None] | None = None,
    ) -> None:
        self.event = event
        self.extra_tensors = extra_tensors
        self.hook = hook
        self._release_handle = False

    def register_hook(self, hook: Callable[[], None]) -> None:
        """`hook` runs once, when the event has been waited for."""
        if self.hook is not None:
            raise InvalidArgument("this event has a hook already", "hook")
        self.hook = hook

    def current_stream_wait(self, release_handle: bool = False) -> None:
        if self.event is None:
            raise InvalidArgument("there is no event to wait for: the operation was not asynchronous", "event")
        self.event.current_stream_wait()
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        if release_handle:
            self.event = None
            self.extra_tensors = None

    def __call__(self, release_handle: bool = False) -> EventOverlap:
        self._release_handle = release_handle
        return self

    def __enter__(self) -> EventOverlap:
        return self

    def __exit__(self, *exception: Any) -> None:
        if self.event is not None:
            self.current_stream_wait(self._release_handle)


def core_event(event: EventHandle | EventOverlap | Event | None) -> Event | None:
    """The event behind any of DeepEP's kinds."""
    if isinstance(event, EventOverlap):
        event = event.event
    return event.event if isinstance(event, EventHandle) else event
