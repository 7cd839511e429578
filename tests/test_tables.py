"""Results print as tables, show as tables in notebooks, and say no more than fits."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

import discedit_onnx as dx
from discedit_onnx import latency
from discedit_onnx.amounts import percent
from discedit_onnx.tables import MOST_COLUMNS, MOST_ROWS, Table


@pytest.fixture(scope="module")
def results(few):
    """One of each kind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "TURN", 0.001)
        model = dx.load(few / "fashion_resnet20.onnx")
        data = dx.open_data(model, few / "fashion_mnist/calibration")
        moments = dx.calibrate(model, data)
        return {
            "model": model,
            "inspection": dx.inspect(model),
            "moments": moments,
            "scores": dx.score(model, moments),
            "edit": dx.prune(model, sparsity=0.2, criterion="l1"),
            "forgetting": dx.forget(model, moments, [3]),
            "evaluation": dx.evaluate(model, data),
        }


WORDS = {
    "model": "logits", "inspection": "273,658", "moments": "dress", "scores": "fisher",
    "edit": "273,658 ->", "forgetting": "273,658 ->", "evaluation": "ankle-boot",
}  # fmt: skip


@pytest.mark.parametrize("kind", WORDS)
def test_results_show_as_tables(results, kind):
    found = results[kind]
    text, page = repr(found), found._repr_html_()
    assert WORDS[kind] in text
    assert max(map(len, text.splitlines())) <= 200
    assert len(text.splitlines()) <= 4 * (MOST_ROWS + 5)
    parsed = ElementTree.fromstring(f"<div>{page}</div>")
    cells = [cell.text or "" for cell in parsed.iter("td")]
    assert len(parsed.findall("table")) == len(list(found.tables()))
    assert any(WORDS[kind] in text for text in [*cells, *(c.text for c in parsed.iter("caption"))])


def test_columns_are_aligned():
    table = Table("", ("name", "n"), (("a", "1"), ("long name", "1,000")))
    assert str(table) == "name           n\na              1\nlong name  1,000"


def test_names_are_text():
    page = Table("<b>", ("&",), (("<script>alert(1)</script>",),))._repr_html_()
    assert "<script>" not in page
    assert "<b>" not in page
    (cell,) = (c.text for c in ElementTree.fromstring(page).find("tbody").iter("td"))
    assert cell == "<script>alert(1)</script>"


def test_what_is_too_much_is_counted():
    wide = tuple(str(i) for i in range(MOST_COLUMNS + 2))
    table = Table("t", wide, (wide,) * (MOST_ROWS + 3))
    assert str(table).endswith("and 3 more rows, 2 more columns")
    assert len(str(table).splitlines()) == MOST_ROWS + 3
    assert "and 3 more rows, 2 more columns" in table._repr_html_()
    assert str(Table("t", ("a",), ())) == "t\na"


def test_shares():
    assert percent(0.942) == "94.2 %"
    assert percent(float("nan")) == "-"
