"""Writes docs/cli.md, the reference of the command line, from the commands themselves.

    python .ci/docs/cli_page.py

`tests/docs/test_cli_page.py` fails while the page differs from the commands.
"""

import inspect
import re
import typing
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from stellar_hub.cli.main import app

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
HEAD = """<!-- python .ci/docs/cli_page.py writes this page from the commands. Do not edit it. -->

# Command line

`stellar-hub COMMAND --help` prints what is on this page. A command exits with one of these codes:

| code | meaning |
|---|---|
| 0 | The command did all of its work. |
| 1 | The command failed, and says why in one line; `--debug` shows the traceback. |
| 2 | The command line is wrong, and nothing was done. |
| 130, 143 | Ctrl-C (130) or SIGTERM (143) ended the command. `train` and `finetune` save a checkpoint first. |

It is 1 where the disk or the machine decides: a file, a folder or a device is missing, damaged or in the way, or the
work failed. It is 2 where the command line alone is wrong: an option, a name or a value is unknown, or values do not
fit each other, the model or the run that is resumed.

`python -m stellar_hub` does the same as `stellar-hub`. Use it after `accelerate launch` or `torchrun`.
"""


def page_text() -> str:
    """Returns the whole page as Markdown."""
    group = typer.main.get_command(app)
    sections = [section_of(name, command) for name, command in commands_of(group, "stellar-hub")]
    listed = [f"| [`{name}`](#{slug(name)}) | {first_line(command)} |" for name, command in commands_of(group)]
    return "\n".join([HEAD, "| command | what it does |", "|---|---|", *listed, "", *sections])


def commands_of(group: Any, prefix: str = "stellar-hub") -> Iterator[tuple[str, Any]]:
    """Yields the full name and the object of each command, in the order of `--help`, with those of groups."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands_of(command, f"{prefix} {name}")
        else:
            yield f"{prefix} {name}", command


def slug(name: str) -> str:
    """Returns the anchor of a command's heading."""
    return name.replace(" ", "-")


def first_line(command: Any) -> str:
    """Returns what the list of commands says about a command."""
    text = command.short_help or " ".join(inspect.cleandoc(command.help).split("\n\n")[0].split())
    return cell(text)


def section_of(name: str, command: Any) -> str:
    """Returns the section of a command: what it does, an example, its arguments and its options."""
    kinds = typing.get_type_hints(inspect.unwrap(command.callback))
    paragraphs = [" ".join(text.split()) for text in inspect.cleandoc(command.help or "").split("\n\n")]
    examples = [text.removeprefix("Example: ") for text in paragraphs if text.startswith("Example: ")]
    words = [prose(text) for text in paragraphs if not text.startswith("Example: ")]
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and not one.hidden]
    parts = [f"## {name}", *words]
    if examples:
        parts.append("\n".join(["```sh", *examples, "```"]))
    if arguments:
        rows = [f"| `{metavar_of(one, kinds[one.name])}` | {cell(one.help or '')} |" for one in arguments]
        parts.append("\n".join(["| argument | meaning |", "|---|---|", *rows]))
    rows = [f"| {spelling(one, kinds[one.name])} | {default_of(one)} | {help_of(one)} |" for one in options]
    parts.append("\n".join(["| option | default | meaning |", "|---|---|---|", *rows]))
    return "\n\n".join(parts) + "\n"


def metavar_of(parameter: Any, kind: Any) -> str:
    """Returns how the value of a parameter is written in a command, such as FOLDER, and nothing for a flag."""
    text = parameter.metavar or ("" if getattr(parameter, "is_flag", False) else type_name(kind))
    several = getattr(parameter, "nargs", 1) != 1
    text = text.replace("|", " or ")
    return f"{text}..." if several and not text.endswith("...") else text


def type_name(kind: Any) -> str:
    """Returns the kind of a value from its annotation: its choices, or its type in capitals."""
    inner = [each for each in typing.get_args(kind) if each is not type(None)]
    if inner:  # of a list, or of a value that may be None
        return type_name(inner[0])
    if issubclass(kind, Enum):
        return " or ".join(str(choice.value) for choice in kind)
    return {int: "N", float: "NUMBER", str: "TEXT", Path: "PATH"}[kind]


def spelling(option: Any, kind: Any) -> str:
    """Returns the names of an option and its value, in a cell."""
    names = sorted([*option.opts, *option.secondary_opts], key=lambda name: (not name.startswith("--"), name))
    value = metavar_of(option, kind)
    return f"`{', '.join(names)}{f' {value}' if value else ''}`"


def default_of(option: Any) -> str:
    """Returns the default of an option, in a cell."""
    if option.required:
        return "required"
    value = option.default
    values = value if isinstance(value, list | tuple) else [value]
    if callable(value) or value is None or value is False or value == "" or not values:
        return ""
    return "`" + ", ".join(str(getattr(each, "value", each)) for each in values) + "`"


def help_of(option: Any) -> str:
    """Returns what an option does, in a cell; an option that may come several times says so."""
    text = cell(option.help or "")
    return f"{text} May be repeated." if option.multiple and "epeat" not in text else text


def prose(text: str) -> str:
    """Marks options and names of tensors as code, and leaves the rest of a paragraph."""
    return re.sub(r"(?<![`\w-])(--[a-z][a-z-]+)", r"`\1`", text)


def cell(text: str) -> str:
    """Makes text fit a cell of a table."""
    return prose(" ".join(text.split())).replace("|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    PAGE.write_text(page_text(), encoding="utf-8")
