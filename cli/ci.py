"""What continuous integration reads: JUnit XML, and GitHub's annotations."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from .output import printable

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


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
    from discedit_onnx.files import write_files

    failures = sum(not passed for _, _, passed in cases)
    name = {"name": "discedit-onnx check"}
    counts = {"tests": str(len(cases)), "failures": str(failures), "errors": "0"}
    suites = ElementTree.Element("testsuites", name | counts)
    suite = ElementTree.SubElement(suites, "testsuite", name | counts)
    for gate, words, passed in cases:
        # XML can't hold control characters, whatever they are written as.
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": printable(model), "name": printable(gate)}
        )
        text = printable(words)
        if passed:
            ElementTree.SubElement(case, "system-out").text = text
        else:
            ElementTree.SubElement(case, "failure", {"message": text}).text = text
    ElementTree.indent(suites)
    write_files({path: ElementTree.tostring(suites, "utf-8", xml_declaration=True)})
