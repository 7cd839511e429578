"""`check` on the command line: exit codes, and what people, machines and CI read."""

from __future__ import annotations

import json
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discedit_onnx import latency
from discedit_onnx.cli import ci
from discedit_onnx.cli.check import class_and_share

OK, USAGE, GATE = 0, 2, 5


@pytest.fixture(autouse=True)
def _here(monkeypatch):
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setattr(latency, "TURN", 0.005)


@pytest.fixture
def model(few):
    return few / "fashion_resnet20.onnx"


@pytest.fixture
def data(few):
    return few / "fashion_mnist/test"


def test_all_gates_hold(run, model, data):
    result = run(
        "check", model, "--against", model, "--data", data, "--min-accuracy", 0.5,
        "--max-drop", 0, "--max-size", "2MB", "--max-latency-ratio", 50, "--forgotten", "dress:1",
    )  # fmt: skip
    assert result.exit_code == OK, result.stderr
    assert result.stderr == ""
    for gate in ("min-accuracy", "max-drop", "max-size", "max-latency-ratio", "forgotten dress"):
        assert re.search(rf"^{gate} .* holds$", result.stdout, re.M)


def test_a_gate_that_fails_is_told_everywhere(run, model, data, tmp_path):
    junit = tmp_path / "junit.xml"
    arguments = (
        "check", model, "--data", data, "--min-accuracy", 0.5, "--max-size", "1MB",
        "--forgotten", "dress:0.1", "--junit", junit,
    )  # fmt: skip
    result = run(*arguments)
    assert result.exit_code == GATE
    assert re.search(r"^max-size .* fails by 0\.12 MB$", result.stdout, re.M)
    (line,) = result.stderr.splitlines()
    assert line.startswith("error: 2 of 3 gates failed: forgotten dress: ")
    assert "1.12 MB, at most 1.00 MB asked, missed by 0.12 MB" in line
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "2")
    cases = {case.get("name"): [part.tag for part in case] for case in suite}
    assert cases["min-accuracy"] == ["system-out"]
    assert cases["max-size"] == cases["forgotten dress"] == ["failure"]
    before = junit.read_bytes()
    run(*arguments)
    assert junit.read_bytes() == before
    assert list(tmp_path.iterdir()) == [junit]


def test_json(run, model):
    result = run("check", model, "--max-size", "1MB", "--json")
    assert result.exit_code == GATE
    value = json.loads(result.stdout)
    (gate,) = value["gates"]
    assert not value["passed"]
    assert gate["found"] == model.stat().st_size
    assert gate["missed_by"] == model.stat().st_size - 10**6


def test_annotations_for_github(run, model, monkeypatch):
    arguments = ("check", model, "--max-size", "1MB")
    assert "::error" not in run(*arguments).stderr
    assert "::error title=" in run(*arguments, "--github").stderr
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    first, last = run(*arguments).stderr.splitlines()
    assert first.startswith("::error title=")
    assert "max-size" in first
    assert last.startswith("error: ")
    assert "::error" not in run(*arguments, "--no-github").stderr
    assert "::error" not in run("check", model, "--max-size", "9MB").stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give a gate"),
        (["--min-accuracy", "0.9"], "--data"),
        (["--max-drop", "0.01"], "--data"),
        (["--max-latency-ratio", "0.7"], "--against"),
        (["--max-size", "50%"], "--against"),
        (["--max-size", "5 apples"], "5 apples"),
        (["--min-accuracy", "90"], "0<=x<=1"),
        (["--forgotten", "dress"], "as 3:0.01"),
        (["--forgotten", "dress:2"], "as 3:0.01"),
        (["--max-size", "5MB", "--junit", "nowhere/x.xml"], "no such folder"),
        (["--max-size", "5MB", "--junit", "."], "is a folder"),
        (["--max-size", "5MB", "--junit", ""], "is a folder"),
        (["--max-size", "5MB", "--junit", "-"], "does not go to standard output"),
        (["--min-accuracy", "nan"], "nan is not a finite number"),
        (["--max-drop", "nan"], "nan is not a finite number"),
        (["--max-latency-ratio", "nan"], "nan is not a finite number"),
        (["--max-latency-ratio", "inf"], "inf is not a finite number"),
        (["--forgotten", "3:nan"], "as 3:0.01"),
        (["--forgotten", "3:0.1", "--forgotten", "3:1"], "class 3 is named twice"),
    ],
)
def test_what_can_not_be_checked_is_an_error_of_usage(run, model, arguments, words):
    result = run("check", model, *arguments)
    assert result.exit_code == USAGE
    assert result.stdout == ""
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_check_that_can_not_run_leaves_no_older_verdict(run, model, data, tmp_path):
    """CI would publish it as this one's."""
    junit = tmp_path / "junit.xml"
    for code, arguments in (
        (USAGE, ["--min-accuracy", "0.9"]),
        (USAGE, ["--max-size", "5 apples"]),
        (3, ["--max-size", "50%", "--against", tmp_path / "none.onnx"]),
        (4, ["--min-accuracy", "0.9", "--data", tmp_path / "none"]),
    ):
        junit.write_text("<testsuites tests='1' failures='0'/>")
        result = run("check", model, *arguments, "--junit", junit)
        assert result.exit_code == code
        suite = ElementTree.parse(junit).getroot()[0]
        counts = [suite.get(name) for name in ("tests", "failures", "errors")]
        assert counts == ["1", "0", "1"]
        assert f"error: {suite[0][0].get('message')}\n" == result.stderr


def test_a_small_ratio_is_not_shown_as_none(run, model):
    result = run("check", model, "--against", model, "--max-latency-ratio", "0.0001")
    assert result.exit_code == GATE
    assert "<= 0.0001" in result.stdout
    assert "at most 0.0001 asked" in result.stderr


def test_junit_replaces_xml_only(run, model, tmp_path):
    for name in ("junit.txt", "copy.onnx"):
        file = tmp_path / name
        file.write_text("precious")
        result = run("check", model, "--max-size", "5MB", "--junit", file)
        assert (result.exit_code, result.stdout) == (USAGE, "")
        assert "exists already, and is no .xml" in result.stderr
        assert file.read_text() == "precious"
    result = run("check", model, "--max-size", "5MB", "--junit", model)
    assert result.exit_code == USAGE
    assert "would overwrite the input" in result.stderr


def test_a_class_may_hold_colons():
    assert class_and_share("a:b:0.25") == ("a:b", 0.25)


@given(st.text(max_size=40), st.text(max_size=40))
def test_annotations_are_read_back(title, message):
    """Undone as GitHub's runner does it."""
    line = ci.annotation(title, message)
    assert "\n" not in line
    assert "\r" not in line
    match = re.fullmatch(r"::error title=([^:,]*)::(.*)", line, re.S)

    def read(text):
        for code, mark in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n")):
            text = text.replace(code, mark)
        return text.replace("%25", "%")

    assert read(match[1]) == title
    assert read(match[2]) == message


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20), st.booleans())))
def test_junit_is_always_xml(tmp_path_factory, cases):
    path = tmp_path_factory.mktemp("junit") / "j.xml"
    ci.write_junit(path, "a\x00<&model>", cases)
    suite = ElementTree.parse(path).getroot()[0]
    assert int(suite.get("failures")) == sum(not passed for *_, passed in cases)
