"""Yaml that holds values and nothing else, and is small: what cannot be a config ends within a second or two."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["MAX_CHARACTERS", "PlainYamlError", "parse_plain_yaml"]

#: of a file; the resolved config of a run, with all its keys, has about 20 thousand
MAX_CHARACTERS = 500_000
#: sections within sections, lists within lists
_MAX_DEPTH = 32
#: keys and values, with every alias counted as what it stands for; a resolved config has about 1 500
_MAX_NODES = 20_000


class PlainYamlError(ValueError):
    """A text that is no plain yaml, or too large a one.

    Attributes:
        line: where, from 1 on; None where that is unknown.
    """

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def parse_plain_yaml(text: str) -> Any:
    """The content of a yaml document.

    Args:
        text: of at most :data:`MAX_CHARACTERS` characters.

    Raises:
        PlainYamlError: not yaml; tags that make objects; a key given twice in a section; more than 32 levels, or more than 20 000 keys and
            values, aliases counted as what they repeat.
    """
    if len(text) > MAX_CHARACTERS:
        raise PlainYamlError(f"it has more than {MAX_CHARACTERS} characters, and a config has some thousand")
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or " ".join(str(error).split())
        if "python" in problem and "tag" in problem:
            problem = f"{problem}. Such tags run code and are never read; write the value out"
        raise PlainYamlError(problem, mark.line + 1 if mark else None) from None
    except (ValueError, TypeError, RecursionError) as error:  # a date that does not exist, a number of thousands of digits
        raise PlainYamlError(f"a value that cannot be read: {' '.join(str(error).split())[:200]}") from None


class _Loader(yaml.SafeLoader):
    """Plain yaml within bounds."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0
        #: nodes in what an anchor names, by the identity of its node
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            target = self.anchors.get(event.anchor)
            if target is not None and id(target) not in self._sizes:
                raise yaml.composer.ComposerError(None, None, f"'*{event.anchor}' stands within what it repeats", event.start_mark)
            self._count(self._sizes[id(target)] if target is not None else 1, event)
            return super().compose_node(parent, index)
        before = self._nodes
        self._count(1, event)
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise yaml.composer.ComposerError(None, None, f"it is nested more than {_MAX_DEPTH} levels deep", event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        self._sizes[id(node)] = self._nodes - before
        return node

    def _count(self, nodes: int, event: yaml.Event) -> None:
        self._nodes += nodes
        if self._nodes > _MAX_NODES:
            raise yaml.composer.ComposerError(
                None, None, f"it has more than {_MAX_NODES} keys and values, aliases counted as what they repeat", event.start_mark
            )

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a key is a list or a section, keys are words", key_node.start_mark)
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key_node.value}' stands twice in one section", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep=deep)


#: the one expression that stands in files of Detectron2 (``Base-RetinaNet.yaml``, sides of RetinaNet's anchors), and what it amounts to; it
#: is recognized as a text and never evaluated
_KNOWN_EXPRESSIONS = {
    "[[x,x*2**(1.0/3),x*2**(2.0/3)]forxin[32,64,128,256,512]]": [
        [side, side * 2 ** (1.0 / 3), side * 2 ** (2.0 / 3)] for side in (32, 64, 128, 256, 512)
    ]
}


def _known_expression(loader: _Loader, node: yaml.Node) -> list[list[float]]:
    """The value of an expression of Detectron2's; any other is refused as every tag that makes objects."""
    texts = [each.value for each in node.value if isinstance(each, yaml.ScalarNode)] if isinstance(node, yaml.SequenceNode) else []
    known = _KNOWN_EXPRESSIONS.get("".join(texts[0].split())) if len(texts) == 1 == len(node.value) else None
    if known is None:
        raise yaml.constructor.ConstructorError(None, None, f"could not determine a constructor for the tag {node.tag!r}", node.start_mark)
    return [list(sizes) for sizes in known]


_Loader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _known_expression)
