"""Signals that ask the process to end, put off until nothing is left half done."""

from __future__ import annotations

import contextlib
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@dataclass
class Asked:
    """The signal by which the process was asked to end, 0 before."""

    signal: int = 0


@contextlib.contextmanager
def signals_deferred() -> Iterator[Asked]:
    """Note SIGINT and SIGTERM instead of ending at once, so that sums are never left half added.

    The second one of a kind ends the process as ever. Python lets only the main thread do this;
    in another, nothing is deferred.
    """
    asked = Asked()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        asked.signal = number
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        for number in map(int, (signal.SIGINT, signal.SIGTERM)):
            before[number] = signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let signals wait until this is done: for files that are nothing without each other."""
    with signals_deferred() as asked:
        yield
    if asked.signal:
        signal.raise_signal(asked.signal)
