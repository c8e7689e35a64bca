"""What is said about a load: one line. transformers' table goes: what it lists is an error here, or meant to be so."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

TRANSFORMERS_LOGGER = "transformers.modeling_utils"


class _NoTable(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


@contextmanager
def without_table() -> Iterator[None]:
    """Hold back transformers' table of missing and unexpected tensors."""
    logger, table = logging.getLogger(TRANSFORMERS_LOGGER), _NoTable()
    logger.addFilter(table)
    try:
        yield
    finally:
        logger.removeFilter(table)


def one_line(name: str, num_tensors: int, converted: bool, decodes: bool) -> str:
    """The report of a load that went well."""
    how = "converted from the original layout" if converted else "loaded"
    return f"{name}: all {num_tensors} tensors {how}; {'encodes and decodes' if decodes else 'features only'}"
