"""What a function in the user's own script gives."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from ...errors import DataError
from .foreign import told

if TYPE_CHECKING:
    from pathlib import Path


def call(script: Path, function: str) -> Any:
    """Run a script and call one of its functions, without arguments.

    Raises
    ------
    DataError
        If there is no such script or function, or it fails.
    """
    where = f"{script}:{function}"
    if not script.is_file():
        raise DataError(f"{script}: no such script")
    spec = importlib.util.spec_from_file_location(f"_discedit_{script.stem}", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with told(where):
        spec.loader.exec_module(module)
        found = getattr(module, function, None)
        if not callable(found):
            raise DataError(f"{where}: the script has no such function")
        return found()
