"""Classes of a classifier in its configuration: how many there are, their names, and what a file may say of them."""

from collections.abc import Mapping
from typing import Any

from .limits import check_limit
from .safe_text import one_line

LABEL_FIELDS = ("num_labels", "id2label", "label2id")
MAX_LABEL_LENGTH = 1000  # characters of one name

Names = dict[int, str]
Numbers = dict[str, int]


def resolve_labels(num_labels: Any, id2label: Any, label2id: Any) -> tuple[Names | None, Numbers | None]:
    """Returns the names of the classes by their numbers, and the numbers by the names.

    What is not given follows from the rest: a number alone gives the names of transformers, "LABEL_0" and so on. Two
    classes may have one name; `label2id` then has one of their numbers. Numbers of the names "LABEL_0" and so on beside
    other names are those of transformers, which it leaves when names are set alone, and count as not given.

    Args:
        num_labels: Number of classes, or None.
        id2label: Names by number from 0 on, where a number may be text as in JSON, or None.
        label2id: Numbers by name, or None.

    Returns:
        Both; None twice if nothing is given.

    Raises:
        TypeError: if a value is not a number or not a dictionary.
        ValueError: if there are too many classes, numbers are not 0, 1, 2, ..., or values contradict each other.
    """
    if num_labels is not None:
        _check_count(num_labels)
    if id2label is None and label2id is None:
        names = None if num_labels is None else {n: name for name, n in _default_numbers(num_labels).items()}
    else:
        names = _names(id2label) if id2label is not None else _inverse_of_numbers(label2id)
    if names is None:
        return None, None
    if num_labels is not None and num_labels != len(names):
        raise ValueError(f"num_labels is {num_labels}, but there are {len(names)} names of classes: leave it out")
    if label2id is not None and label2id != _default_numbers(len(label2id)):
        return names, _check_inverse(label2id, names)
    inverse: Numbers = {}
    for number, name in names.items():
        inverse.setdefault(name, number)
    return names, inverse


def _default_numbers(count: int) -> Numbers:
    return {f"LABEL_{number}": number for number in range(count)}


def take_labels(changes: dict[str, Any], content: Mapping[str, Any]) -> dict[str, Any]:
    """Takes the fields of classes out of keywords, and returns the content of a configuration with them.

    New names replace the old ones. A new number keeps the old names if there are as many.

    Args:
        changes: Keywords, of which those in `LABEL_FIELDS` are removed.
        content: Fields of the configuration.
    """
    given = {name: changes.pop(name) for name in LABEL_FIELDS if name in changes}
    given = {name: value for name, value in given.items() if value is not None}
    old = content.get("id2label")
    if not given or (given.keys() == {"num_labels"} and isinstance(old, dict) and len(old) == given["num_labels"]):
        return dict(content)
    return {name: value for name, value in content.items() if name not in LABEL_FIELDS} | given


def set_labels(config: Any, changes: dict[str, Any]) -> None:
    """Takes the fields of classes out of keywords, and sets them in a configuration; see `take_labels`."""
    fields = take_labels(changes, {"id2label": config.id2label, "label2id": config.label2id})
    config.id2label, config.label2id = resolve_labels(*(fields.get(name) for name in LABEL_FIELDS))


def _check_count(count: Any) -> None:
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"num_labels must be a whole number, got {one_line(repr(count), 100)}")
    if count < 0:
        raise ValueError(f"num_labels must be at least 0, got {count}")
    check_limit("config_dimension", count, "num_labels")


def _names(id2label: Any) -> Names:
    """Returns the names by number, in the order of the numbers."""
    if not isinstance(id2label, Mapping):
        raise TypeError(f"id2label must be a dictionary of names by number, got {type(id2label).__name__}")
    _check_count(len(id2label))
    try:
        names = {int(number): name for number, name in id2label.items()}
    except (TypeError, ValueError):
        names = {}
    if sorted(names) != list(range(len(id2label))):
        raise ValueError(
            f"id2label must have the numbers 0 to {len(id2label) - 1} as its keys, got "
            f"{one_line(', '.join(map(repr, id2label)), 100)}"
        )
    return {number: _checked_name(names[number], number) for number in range(len(names))}


def _checked_name(name: Any, number: int) -> str:
    if not isinstance(name, str) or not name.strip() or len(name) > MAX_LABEL_LENGTH:
        raise ValueError(
            f"the name of class {number} must be text of 1 to {MAX_LABEL_LENGTH} characters, got "
            f"{one_line(repr(name), 100)}"
        )
    return name


def _inverse_of_numbers(label2id: Any) -> Names:
    """Returns the names by number, from the numbers by name."""
    numbers = _checked_numbers(label2id)
    if len(set(numbers.values())) < len(numbers):
        raise ValueError("label2id gives two names the same number: pass id2label, which has a name for each number")
    return _names({number: name for name, number in numbers.items()})


def _checked_numbers(label2id: Any) -> Numbers:
    if not isinstance(label2id, Mapping):
        raise TypeError(f"label2id must be a dictionary of numbers by name, got {type(label2id).__name__}")
    try:
        return {name: int(number) for name, number in label2id.items()}
    except (TypeError, ValueError):
        raise ValueError("label2id must have a whole number for each name") from None


def _check_inverse(label2id: Any, names: Names) -> Numbers:
    """Returns the numbers by name if they are those of the names."""
    numbers = _checked_numbers(label2id)
    wrong = [name for name, number in numbers.items() if names.get(number) != name]
    missing = set(names.values()) - numbers.keys()
    if wrong or missing:
        shown = one_line(repr(sorted(map(str, [*wrong, *missing]))[0]), 100)
        raise ValueError(f"label2id must be the inverse of id2label, but they differ for the class {shown}")
    return numbers
