"""A size read off several tensors at once, so that one misshapen tensor does not mislead."""

from collections import Counter
from collections.abc import Mapping

from torch import Tensor


def common_size(tensors: Mapping[str, Tensor], *places: tuple[str, int]) -> int:
    """The size that most of some tensors have in some dimension, the first named among equals.

    Args:
        tensors: A state dict; tensors may be missing or misshapen, which later checks report by name.
        *places: Name of a tensor, and the dimension of it that has this size.

    Returns:
        The size; 1 where none of the places exists.
    """
    sizes = [tensors[name].shape[dim] for name, dim in places if name in tensors and dim < tensors[name].ndim]
    return Counter(sizes).most_common(1)[0][0] if sizes else 1
