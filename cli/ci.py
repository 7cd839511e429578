"""What continuous integration reads: JUnit XML, and GitHub's annotations."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from .output import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from xml.etree.ElementTree import Element


def on_github() -> bool:
    """Whether this runs in a workflow of GitHub's."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def annotation(title: str, message: str) -> str:
    """A workflow command that puts an error on the run's page.

    What would end the command or one of its properties is written as GitHub reads it back.
    """
    escaped = _escaped(title).replace(":", "%3A").replace(",", "%2C")
    return f"::error title={escaped}::{_escaped(message)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


@contextlib.contextmanager
def reported(path: Path | None, model: str) -> Iterator[None]:
    """Have what keeps gates from being evaluated in the JUnit file too.

    That of an earlier check goes first: it must not be read as this one's, however this one ends.
    """
    if path is None:
        yield
        return
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        suites, suite = _suites(1, errors=1)
        _add(suite, model, "check", "error", str(error) or type(error).__name__)
        _write(path, suites)
        raise


def write_junit(path: Path, model: str, cases: Sequence[tuple[str, str, bool]]) -> None:
    """Write gates as test cases, all of the file or nothing; the same verdicts give the same bytes.

    Parameters
    ----------
    path
        The XML file; replaced if it is there.
    model
        Class name of the cases.
    cases
        Of each gate its name, what was found in words, and whether it holds.
    """
    suites, suite = _suites(len(cases), failures=sum(not passed for _, _, passed in cases))
    for gate, words, passed in cases:
        _add(suite, model, gate, "system-out" if passed else "failure", words)
    _write(path, suites)


def _suites(tests: int, failures: int = 0, errors: int = 0) -> tuple[Element, Element]:
    """The root, and the only suite in it."""
    said = {"name": "discedit-onnx check", "tests": str(tests), "failures": str(failures)}
    said["errors"] = str(errors)
    root = ElementTree.Element("testsuites", said)
    return root, ElementTree.SubElement(root, "testsuite", said)


def _add(suite: Element, model: str, gate: str, kind: str, words: str) -> None:
    """A test case, with an element of this kind in it."""
    # XML can't hold control characters, whatever they are written as.
    text = printable(words)
    case = ElementTree.SubElement(
        suite, "testcase", {"classname": printable(model), "name": printable(gate)}
    )
    said = {} if kind == "system-out" else {"message": text}
    ElementTree.SubElement(case, kind, said).text = text


def _write(path: Path, suites: Element) -> None:
    from discedit_onnx.files import write_files

    ElementTree.indent(suites)
    write_files({path: ElementTree.tostring(suites, "utf-8", xml_declaration=True)})
