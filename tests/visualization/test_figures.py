from __future__ import annotations

import re

import numpy as np

from detkit.visualization.figures import Line, line_figure


def figure(**changes: object) -> str:
    lines = [Line(np.arange(3), np.arange(3.0), "first <1>"), Line(np.arange(3), [1.0, np.nan, 2.0], "main", "ink", raw=np.ones(3))]
    return str(line_figure(lines, **{"alt": 'A "plot" & more', "xlabel": "x", "ylabel": "y"} | changes))


def test_colors_are_variables_of_the_page() -> None:
    svg = figure()
    assert {"var(--ink)", "var(--muted)", "var(--line)", "var(--series-0)"} <= set(re.findall(r"var\([^)]*\)", svg))
    assert "#0a0" not in svg
    assert "#000000" not in svg


def test_text_stays_text_and_is_escaped() -> None:
    svg = figure()
    assert "first &lt;1&gt;</text>" in svg
    assert 'role="img" aria-label="A &#34;plot&#34; &amp; more"' in svg


def test_it_can_stand_in_a_page_beside_others() -> None:
    svg, other = figure(), figure(alt="another")
    assert "http" not in svg
    assert "<style" not in svg
    ids, other_ids = (set(re.findall(r'\bid="([^"]*)"', text)) for text in (svg, other))
    assert ids
    assert not ids & other_ids
    assert figure() == svg
