"""Links and paths in the documentation lead somewhere, and so do the cross-references of docstrings."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from detkit.config import METHOD_PACKAGES

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "projects/**/*.md", "benchmarks/*.md", "configs/**/*.md", "tests/**/*.md")
    for page in ROOT.glob(pattern)
)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"(?<![\w/.{-])(?:configs|tools|benchmarks|docs|projects|tests)/[\w./-]+\.(?:yaml|py|md)\b")


def test_there_is_documentation():
    assert ROOT / "README.md" in PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_paths_lead_to_files(page):
    text = page.read_text(encoding="utf-8")
    links = [target.partition("#")[0] for target in LINK.findall(text) if "://" not in target and not target.startswith(("#", "mailto:"))]
    broken = [link for link in links if not (page.parent / link).exists()]
    broken += [path for path in PATH.findall(text) if not (ROOT / path).exists() and not (page.parent / path).exists()]
    assert not broken, f"{page.relative_to(ROOT)} names what is not there: {', '.join(broken)}"


def test_every_page_is_on_the_index_and_in_the_navigation():
    text = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    linked = {(ROOT / "docs" / target.partition("#")[0]).resolve() for target in LINK.findall(text)}
    navigation = [
        line for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.splitlines()
    ]
    listed = {(ROOT / "docs" / f"{line}.md").resolve() for line in navigation if not line.startswith(":") and "*" not in line}
    pages = {page for page in PAGES if "docs" in page.relative_to(ROOT).parts[0] or page.name == "README.md"}
    missing = sorted(str(page.relative_to(ROOT)) for page in pages - {ROOT / "docs" / "index.md"} - (linked & listed))
    assert not missing, f"docs/index.md lacks a link or a line of navigation for {', '.join(missing)}"


FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+)+(?![\w.])|(?<![\w.])\d{2,4}(?= ms\b)")


def test_figures_of_what_to_train_stand_where_their_row_says():
    page = ROOT / "docs" / "choosing.md"
    wrong, rows = [], 0
    for line in page.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        figures = FIGURE.findall(" ".join(cells[:-1]))
        links = [target.partition("#")[0] for target in LINK.findall(cells[-1])]
        if not line.startswith("| ") or not figures:
            continue
        rows += 1
        text = "\n".join((page.parent / link).read_text(encoding="utf-8") for link in links if link)
        if text:
            wrong += [f"{figure} in {line}" for figure in figures if not re.search(rf"(?<![\d.]){re.escape(figure)}0?(?![\d])", text)]
        elif not re.search(r", table \d|AdelaiDet", cells[-1]):
            wrong.append(f"no source in {line}")
    assert rows > 30 and not wrong, "\n".join(wrong)


def test_configs_of_what_to_train_are_there():
    named = re.findall(r"`((?:quick|fcos|atss|dw|lsnet|sparsercnn|crowdhuman)/\w+)`", (ROOT / "docs" / "choosing.md").read_text("utf-8"))
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / "configs" / f"{name}.yaml").is_file()]


# docstrings -----------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def references():
    """What ``make docs`` follows cross-references with."""
    spec = importlib.util.spec_from_file_location("references", ROOT / "docs" / "_sphinx" / "references.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_holds_every_package(references):
    assert list(references.PACKAGES) == ["detkit", *METHOD_PACKAGES]


@pytest.mark.parametrize("package", ["detkit", *METHOD_PACKAGES])
def test_cross_references_of_docstrings_name_what_there_is(references, package):
    broken = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        for target, owner, line in references.references_of(path.read_text(encoding="utf-8")):
            if references.resolve(target, module, owner) is None:
                broken.append(f"{path.relative_to(ROOT)}:{line} names {target}")
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    "target, module, owner, place",
    [
        ("Grid", "detkit.geometry.grid", None, ("detkit.geometry.grid", "Grid")),
        ("detkit.geometry.Grid", None, None, ("detkit.geometry.grid", "Grid")),
        ("Grid", "lsnet.tasks", None, ("detkit.geometry.grid", "Grid")),  # the only export of its name
        ("decode", "detkit.geometry.box_coding", "BoxCoder", ("detkit.geometry.box_coding", "BoxCoder.decode")),
        ("detkit.config.reader", None, None, ("detkit.config.reader", "")),
        ("detkit.config.METHOD_PACKAGES", None, None, ("detkit.config", "METHOD_PACKAGES")),
        ("torch.nn.Conv2d", None, None, ("torch.nn.modules.conv", "Conv2d")),
        ("detkit.geometry.Grit", None, None, None),
        ("decodes", "detkit.geometry.box_coding", "BoxCoder", None),
        ("detkit.geometry.grids", None, None, None),
    ],
)
def test_what_a_cross_reference_means(references, target, module, owner, place):
    assert references.resolve(target, module, owner) == place


def test_cross_references_are_found_in_docstrings_of_every_kind(references):
    source = (
        '":mod:`a.b`"\nclass C:\n    ":class:`~x.Y`"\n    def f(self):\n        """Like :meth:`g` and :func:`h`, ``:func:`` is none."""\n'
    )
    assert [(target, owner) for target, owner, _ in references.references_of(source)] == [
        ("a.b", None),
        ("x.Y", "C"),
        ("g", "C"),
        ("h", "C"),
    ]
