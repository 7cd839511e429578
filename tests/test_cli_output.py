"""How names and numbers are written for people."""

from __future__ import annotations

import math
import re

import pytest

from discedit_onnx import amounts
from discedit_onnx.cli import output


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("/blocks/blocks.6/second/second.0/Conv_output_0", "blocks.6/second.0/Conv"),
        ("blocks.6.second.0.weight", "blocks.6.second.0.weight"),
        ("/", "/"),
        ("/a/ab/Relu_output_0", "a/ab/Relu"),
        ("x" * 40 + "end", "..." + "x" * 26 + "end"),
    ],
)
def test_short(name, want):
    assert output.short(name) == want


@pytest.mark.parametrize(
    ("form", "value", "want"),
    [
        (amounts.number, 1234567, "1,234,567"),
        (amounts.large, 999, "999"),
        (amounts.large, 31021952, "31.0 M"),
        (amounts.large, 4_100_000_000, "4.1 G"),
        (amounts.large, None, "unknown"),
        (amounts.size, 999, "999 B"),
        (amounts.size, 1500, "1.5 kB"),
        (amounts.size, 1_116_000, "1.12 MB"),
        (amounts.percent, 0.9512, "95.1 %"),
        (amounts.percent, math.nan, "-"),
    ],
)
def test_numbers(form, value, want):
    assert form(value) == want


@pytest.mark.parametrize(
    ("form", "before", "after", "want"),
    [
        (amounts.change, 200, 150, "-25.0 %"),
        (amounts.change, 0, 150, "-"),
        (amounts.points, 0.9, 0.95, "+5.0"),
        (amounts.points, math.nan, 0.95, "-"),
    ],
)
def test_changes(form, before, after, want):
    assert form(before, after) == want


def test_messages_stay_on_their_line():
    assert output.one_line(" a\r\n\tb\n\nc\x1b[0m") == "a b c?[0m"


def test_json_knows_no_infinities(capsys):
    output.Screen(as_json=True).json({"a": [math.nan, math.inf, 1.5], 2: ("x",)})
    assert capsys.readouterr().out.split() == (
        '{ "a": [ null, null, 1.5 ], "2": [ "x" ] }'.split()  # noqa: SIM905
    )


@pytest.mark.parametrize("columns", ["0", "1", "19", "-3", "wide", ""])
def test_no_width_swallows_what_is_printed(columns, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", columns)
    screen = output.Screen()
    screen.facts("Title", {"name": "value"})
    screen.table("Table", ["first", "second"], [["one", "2"]])
    printed = capsys.readouterr().out
    assert "  name  value" in printed
    assert re.search("one +2", printed)
