"""The model as a file: load, hash, what its metadata says, and an atomic save."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from google.protobuf.message import DecodeError, EncodeError
from onnx import helper
from onnx.external_data_helper import (
    load_external_data_for_model,
    set_external_data,
    uses_external_data,
)

from .branches import take_branches
from .constants import hold_tensors
from .errors import ModelError, UsageError, first_line, reason_of
from .files import check_place, real_path, same_file
from .functions import inline_functions
from .interruption import uninterrupted
from .moved import write_moved
from .sorting import sort_nodes
from .tables import Table, Tabular, facts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CLASS_NAMES_KEY = "discedit.class_names"
PREPROCESS_KEY = "discedit.preprocess"
DEFAULT_DOMAINS = ("", "ai.onnx")
FORMAT = "protobuf"
SMALL = 1024
"""Bytes of a tensor that stays in the model's own file all the same."""
"""Whatever the file's name ends in, from which onnx would guess."""


PACKED = {"INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4}
WIDTHS = {
    kind: PACKED.get(name, 8 * helper.tensor_dtype_to_np_dtype(kind).itemsize)
    for name, kind in onnx.TensorProto.DataType.items()
    if name not in ("UNDEFINED", "STRING")
}
"""Bits of a number of each type, where its bytes lie one after the other."""


@dataclass(frozen=True)
class Stamp:
    """A file as it was at some time.

    Attributes
    ----------
    path
        Absolute, for the process may go to another folder.
    size, changed
        Its bytes, and when it was written, in nanoseconds.
    """

    path: Path
    size: int
    changed: int

    @classmethod
    def of(cls, file: Path) -> Stamp:
        """The file as it is now."""
        found = file.stat()
        return cls(file.absolute(), found.st_size, found.st_mtime_ns)

    @property
    def holds(self) -> bool:
        """Whether the file is still as it was."""
        with contextlib.suppress(OSError):
            return Stamp.of(self.path) == self
        return False


@dataclass(frozen=True, repr=False)
class Model(Tabular):
    """A model and the files that it came from.

    Attributes
    ----------
    proto
        The whole model, external data loaded into it, local functions written out, constants
        that are only moved written as they are read, lengths of 0 or -1 made open, and each node
        behind those that it reads. Never changed in place.
    path
        The file that it was read from, as it was named.
    external
        The external data files that it referred to, in name order.
    inlined
        Names of the local functions, and of the If nodes with one branch only to take, that were
        written out.
    stamps
        The file and the external data files as they were read.
    """

    proto: onnx.ModelProto
    path: Path
    external: tuple[Path, ...] = ()
    inlined: tuple[str, ...] = ()
    stamps: tuple[Stamp, ...] = ()

    def tables(self) -> Iterator[Table]:
        """What it is called, takes and gives."""
        graph = self.proto.graph
        weights = {weight.name for weight in graph.initializer}
        yield facts(
            str(self.path),
            inputs=", ".join(i.name for i in graph.input if i.name not in weights),
            outputs=", ".join(o.name for o in graph.output),
            nodes=f"{len(graph.node):,}",
            IR_version=self.proto.ir_version,
        )

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the file and then of its external data files."""
        digest = hashlib.sha256()
        for chunk in self.content():
            digest.update(chunk)
        return digest.hexdigest()

    def content(self) -> Iterator[bytes]:
        """The bytes of the file and then of its external data files, part by part.

        Raises
        ------
        ModelError
            If they are no longer those that were loaded.
        """
        self._require_unchanged()
        for stamp in self.files:
            with stamp.path.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    yield chunk
        self._require_unchanged()

    def _require_unchanged(self) -> None:
        if not all(stamp.holds for stamp in self.files):
            raise ModelError(f"{self.path}: changed since it was loaded; load it anew")

    @cached_property
    def files(self) -> tuple[Stamp, ...]:
        """Its files as they were loaded; of a model that was made by hand, as they are."""
        return self.stamps or tuple(map(Stamp.of, (self.path, *self.external)))

    @property
    def place(self) -> Path:
        """The file, whatever folder the process is in by now."""
        return self.stamps[0].path if self.stamps else self.path

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The model's `metadata_props`."""
        return {prop.key: prop.value for prop in self.proto.metadata_props}

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """Class names from the metadata, in the order of the outputs."""
        text = self.metadata.get(CLASS_NAMES_KEY)
        if text is None:
            return None
        try:
            names = json.loads(text)
        except json.JSONDecodeError as error:
            raise ModelError(f"{self.path}: metadata {CLASS_NAMES_KEY} is not JSON") from error
        if not isinstance(names, list):
            raise ModelError(f"{self.path}: metadata {CLASS_NAMES_KEY} is not a list of names")
        return tuple(str(name) for name in names)

    @cached_property
    def file_size(self) -> int:
        """Bytes on disk, external data included."""
        return sum(stamp.size for stamp in self.files)


def load(path: str | Path) -> Model:
    """Read an ONNX model, external data included, and write out its local functions.

    Parameters
    ----------
    path
        The `.onnx` file.

    Raises
    ------
    ModelError
        If there is no such file, it is not ONNX or truncated, external data is missing, or nodes
        read each other in a circle.
    """
    path = Path(path)
    if path.is_dir():
        raise ModelError(f"{path}: is a folder; give the model's file in it")
    if path.exists() and not path.is_file():
        raise ModelError(f"{path}: is no regular file; give a model's file")
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        stamps = [Stamp.of(path)]  # before it is read: what is written meanwhile is noticed
        proto = onnx.load(str(path), FORMAT, load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one") from error
    except OSError as error:
        raise ModelError(f"{path}: can't be read: {reason_of(error)}") from error
    if not proto.ir_version or not proto.graph.output:
        raise ModelError(f"{path}: not an ONNX model, or a truncated one")
    external = _external_files(path, proto)
    for file in external:
        if not file.is_file():
            raise ModelError(f"{path}: its weights lie in {file.name}, which is missing beside it")
        stamps.append(Stamp.of(file))
    if external:
        try:
            load_external_data_for_model(proto, str(path.parent))
        except Exception as error:  # onnx raises several kinds for a short or unsafe file
            raise ModelError(f"{path}: external data can't be read: {first_line(error)}") from error
    _require_whole(path, proto)
    _open_axes(proto)
    hold_tensors(proto.graph)
    if circle := sort_nodes(proto.graph):
        raise ModelError(
            f"{path}: nodes read each other in a circle, at {circle!r} or before: export it anew"
        )
    flat = inline_functions(proto)
    left = {function.name for function in flat.functions}
    names = dict.fromkeys(function.name for function in proto.functions)
    flat, branches = take_branches(flat)
    inlined = (*(name for name in names if name not in left), *branches)
    return Model(write_moved(flat), path, external, inlined, tuple(stamps))


def _require_whole(path: Path, proto: onnx.ModelProto) -> None:
    """Refuse constants with more or fewer bytes than their shape takes."""
    for tensor in _tensors(proto.graph):
        if tensor.HasField("raw_data") and tensor.data_type in WIDTHS:
            given = len(tensor.raw_data)
            if given != -(-math.prod(tensor.dims) * WIDTHS[tensor.data_type] // 8):
                raise ModelError(
                    f"{path}: constant {tensor.name!r} of shape {list(tensor.dims)} has {given} "
                    "bytes: the file is damaged, copy or export it anew"
                )


def _open_axes(proto: onnx.ModelProto) -> None:
    """Make lengths of 0 or -1 unknown, which is what exporters mean; runtimes may insist on 0."""
    graph = proto.graph
    weights = {tensor.name for tensor in graph.initializer}
    for info in (*graph.input, *graph.output, *graph.value_info):
        if info.name not in weights:
            for dim in info.type.tensor_type.shape.dim:
                if dim.HasField("dim_value") and dim.dim_value <= 0:
                    dim.ClearField("dim_value")


def _external_files(path: Path, proto: onnx.ModelProto) -> tuple[Path, ...]:
    """The files that the graph's tensors refer to."""
    names = {
        entry.value
        for tensor in _tensors(proto.graph)
        if uses_external_data(tensor)
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return tuple(sorted(path.parent / name for name in names))


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Initializers and attributes, in subgraphs too."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for subgraph in (attribute.g, *attribute.graphs):
                yield from _tensors(subgraph)


def check_output(source: Model, path: Path, force: bool = False) -> None:
    """Refuse an output path that is the input, exists already, or can't be written to.

    Raises
    ------
    UsageError
        Naming the mend; see `check_place`. `force` allows an existing file, never the input itself.
    """
    inputs = [stamp.path for stamp in source.stamps] or [source.path, *source.external]
    for file in [path, _data_path(path)] if source.external else [path]:
        check_place(file, force, inputs)


def save(
    proto: onnx.ModelProto,
    source: Model,
    path: str | Path,
    force: bool = False,
    beside: Callable[[Path], Mapping[str, bytes]] | None = None,
) -> None:
    """Write `proto` at `path`, all of it or nothing.

    The files are written under a temporary name in the same folder, checked by
    `onnx.checker` with shape inference, and renamed. Weights go to `path` + `.data` where the
    source kept them outside too, or where protobuf's limit demands it. Where `proto` is the
    source's own, unchanged, and its weights lie inside, the file is copied byte for byte.

    Parameters
    ----------
    proto, source
        What to write, and the model that it was made of.
    path, force
        Where to, and whether a file may be there already.
    beside
        What else to write, or neither: from the model as it was written under its temporary name,
        the contents of files, by what their names add to the model's.

    Raises
    ------
    UsageError
        If the output is the input, or exists and `force` is not set, or can't be written.
    ModelError
        If the result does not pass the checker, though the source does, or the file to copy has
        changed since it was loaded; nothing is written then.
    """
    path = Path(path)
    check_output(source, path, force)
    try:
        place = real_path(path).parent
        with tempfile.TemporaryDirectory(prefix=".discedit-", dir=place) as folder:
            temporary = Path(folder) / path.name
            if proto is source.proto and not source.external:
                with temporary.open("wb") as stream:
                    stream.writelines(source.content())
            else:
                _write(proto, temporary, external=bool(source.external))
            _check(temporary, source)
            for suffix, content in ({} if beside is None else beside(temporary)).items():
                temporary.with_name(path.name + suffix).write_bytes(content)
            files = sorted(Path(folder).iterdir(), key=lambda f: f.name == path.name)
            left = _data_path(path)
            stale = left.name not in {file.name for file in files} and _reads(path, left)
            # The model comes last: it is what makes the data file reachable.
            with uninterrupted():
                for file in files:
                    file.replace(real_path(path.parent / file.name))
            if stale:
                left.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: can't be written: {reason_of(error)}") from error


def fault_of(model: onnx.ModelProto | str) -> str:
    """What onnx finds wrong with a model, or with the file at a path; empty where it is valid."""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:  # the checker and shape inference have no common base but this
        return str(error).strip() or type(error).__name__
    return ""


def _check(path: Path, source: Model) -> None:
    """Refuse a model that is not valid, unless the source has the very same fault.

    ONNX Runtime runs operators that onnx does not know, or not yet at the model's opset; then onnx
    can't tell us anything of the edit, and what vouches for it is the proof.
    """
    fault = fault_of(str(path))
    if fault and fault != fault_of(str(source.place)):
        raise ModelError(f"the edited model is not valid: {fault.splitlines()[0]}")


def _data_path(path: Path) -> Path:
    """Where the weights of a model lie that does not hold them itself."""
    return path.with_name(path.name + ".data")


def _reads(path: Path, data: Path) -> bool:
    """Whether a model is there whose weights lie in that file: they go when it is overwritten."""
    if not (path.is_file() and data.is_file()):
        return False
    with contextlib.suppress(DecodeError, OSError, ValueError, ModelError):
        proto = onnx.load(path, FORMAT, load_external_data=False)
        return any(same_file(file, data) for file in _external_files(path, proto))
    return False


def _write(proto: onnx.ModelProto, path: Path, external: bool) -> None:
    """Serialise, with the weights in a file beside it where they must be."""
    if not external:
        # Which error says that protobuf's 2 GiB are exceeded depends on its implementation.
        with contextlib.suppress(EncodeError, ValueError):
            onnx.save(proto, str(path), FORMAT)
            return
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)  # onnx.save takes the weights out of what it is given
    # What onnx.save does if it is asked to, but that it looks for the file where the process is.
    for tensor in copy.graph.initializer:
        if len(tensor.raw_data) >= SMALL:
            set_external_data(tensor, _data_path(path).name)
    onnx.save(copy, str(path), FORMAT)
    if _data_path(path).is_file():  # not where all weights are small
        shutil.copymode(path, _data_path(path))  # onnx lets nobody else read it
