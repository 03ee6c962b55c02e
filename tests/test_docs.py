"""Links and paths in the documentation lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page for pattern in ("*.md", "docs/**/*.md", "projects/**/*.md", "benchmarks/*.md", "configs/**/*.md") for page in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.{-])(?:configs|tools|benchmarks|docs|projects)/[\w./-]+\.(?:yaml|py|md)\b")


def test_there_is_documentation():
    assert ROOT / "README.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = [target.partition("#")[0] for target in LINK.findall(text) if "://" not in target and not target.startswith(("#", "mailto:"))]
    broken = [link for link in links if not (page.parent / link).exists()]
    broken += [path for path in PATH.findall(text) if not (ROOT / path).exists() and not (page.parent / path).exists()]
    assert not broken, f"{page.relative_to(ROOT)} names what is not there: {', '.join(broken)}"
