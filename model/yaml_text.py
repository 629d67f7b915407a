"""YAML as configs are written in it: a key that stands twice is an error, not a value that is silently lost."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        first: dict[str, int] = {}
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                line = key.start_mark.line + 1
                if key.value in first:
                    said = f"{key.value!r} stands in line {first[key.value]} already: take one of them out"
                    raise yaml.constructor.ConstructorError(None, None, said, key.start_mark)
                first[key.value] = line
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """
    Raises:
        yaml.YAMLError: it is no YAML, or a key of it stands twice; the message says in which line.
    """
    return yaml.load(text, _Loader)  # safe: it is a SafeLoader
