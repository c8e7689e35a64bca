"""YAML as recipes use it: `1e-4` is a number, a date is text, and a key given twice is an error.

PyYAML speaks YAML 1.1, where a float needs a dot, so that `1e-4` would be a string. Here what looks like a number in
YAML 1.2 is one, read and written alike.
"""

import re
from typing import Any

import yaml

FLOAT = re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")

UNUSUAL_LINE_END = re.compile("[\\x85\\u2028\\u2029]")


class _Loader(yaml.SafeLoader):
    """Safe loader with YAML 1.2's floats, no dates, and no repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue  # a list or mapping as key is refused below
            if key.value in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} comes twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Safe dumper that quotes what `_Loader` would not read as text, and writes lists on one line."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Without dates: a folder or license named like one is text.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _speaker in (_Loader, _Dumper):
    _speaker.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+.0123456789"))
_Dumper.add_representer(
    list, lambda dumper, data: dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)
)


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # PyYAML leaves the rarer line ends as they are in other styles, and reads them back as spaces.
    style = '"' if UNUSUAL_LINE_END.search(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def read_yaml(text: str, source: str) -> Any:
    """The value that `text` holds.

    Args:
        text: YAML, one document.
        source: What to call the text in an error.

    Raises:
        ValueError: if it is no valid YAML, naming `source` and the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{source}{line}: not valid YAML: {error.problem or error.context}") from error
    except yaml.reader.ReaderError as error:
        number = text.count("\n", 0, error.position) + 1
        raise ValueError(f"{source}, line {number}: not valid YAML: {error.reason}") from error


def write_yaml(value: Any) -> str:
    """`value`, made of dictionaries, lists and scalars, as YAML; keys keep their order."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
