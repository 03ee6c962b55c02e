"""What the cards in ``projects`` say about published configs: source, AP, weights, and the differences that remain.

``python -m tests.config.cards`` writes these parts of the cards again.
"""

from __future__ import annotations

from pathlib import Path

from .architectures import CONFIGS, ROOT, config_name
from .comparison import compare
from .differences import Difference, declared
from .settings import commits, published, source_of

__all__ = ["CARDS", "part_of", "rendered", "write"]

CARDS = tuple(sorted({ROOT / "projects" / path.parent.name / "README.md" for path in CONFIGS if source_of(path)}))
BEGIN = "<!-- written by tests/config/cards.py: begin -->"
END = "<!-- end -->"


def rendered(card: Path) -> str:
    """The table of a method's published configs, and the differences that it names."""
    rows, used = [], []
    for path in CONFIGS:
        source = source_of(path)
        if source is None or path.parent.name != card.parent.name:
            continue
        entries = [entry for entry in declared() if any(entry.fits(config_name(path), key) for key in compare(path)[0])]
        used += [entry for entry in entries if entry not in used]
        rows.append((path.stem, source, entries))
    order = [entry for entry in declared() if entry in used]
    lines = ["| config | trains and tests as | its weights: box AP | differences |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {_source(source)} | {_weights(source)} | {_numbers(entries, order)} |" for name, source, entries in rows]
    lines += ["", *(f"{number}. {entry.title[0].upper()}{entry.title[1:]}: {entry.reason}" for number, entry in enumerate(order, start=1))]
    return "\n".join(lines).strip()


def _source(source: str) -> str:
    repository, _, path = source.partition(":")
    commit = "v3.3.0" if repository == "open-mmlab/mmdetection" else commits()[repository]
    return f"{repository} [{path.rpartition('/')[2]}](https://github.com/{repository}/blob/{commit}/{path})"


def _weights(source: str) -> str:
    weights = published(source).weights
    texts = []
    for entry in weights:
        ap = f"{entry['ap']} ({entry['split']})" if entry.get("ap") is not None else "no AP stated"
        texts.append(f"[{ap}]({entry['address']})" if entry.get("address", "").startswith("http") else f"{ap}, withdrawn or a local file")
    return ", ".join(texts) or "none published"


def _numbers(entries: list[Difference], order: list[Difference]) -> str:
    return ", ".join(str(order.index(entry) + 1) for entry in entries) or "none"


def part_of(card: Path) -> str:
    """What stands in a card between the marks."""
    text = card.read_text()
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


def write(card: Path) -> None:
    """Writes the part of a card again."""
    text = card.read_text()
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    card.write_text(f"{text[:begin]}\n{rendered(card)}\n{text[end:]}")


if __name__ == "__main__":
    for each in CARDS:
        write(each)
