"""The model of a command: options that do not fit it are refused before its weights are read."""

from pathlib import Path
from typing import TYPE_CHECKING

from stellar_hub.cli.errors import WrongUsage, wrong_usage
from stellar_hub.cli.messages import announce_loading, warn

if TYPE_CHECKING:
    from stellar_hub.modeling import StellarImageProcessor, StellarModel

MANY_PATCHES = 2**14  # of an image: on a CPU it takes minutes


def open_model(
    name: str,
    device: str,
    fit: str = "crop",
    decoder: bool | None = None,
    image_size: int | tuple[int, int] | None = None,
) -> "tuple[StellarModel, StellarImageProcessor]":
    """Says that a model is loaded, and loads it with its processor; the arguments are those of `load_model`.

    Raises:
        OSError: if the model does not exist.
        ValueError: if the device is not available, or the weights do not fit.
        WrongUsage: if there is no such model, or the size does not fit it.
    """
    check_name(name)
    announce_loading(name)
    check_image_size(name, image_size, fit)
    from stellar_hub.features.identity import load_model, load_processor

    if image_size is None or not Path(name).is_file():
        return load_model(name, device, fit, decoder=decoder, image_size=image_size)
    model, _ = load_model(name, device, fit, decoder=decoder)  # a file: its patch size is known with its weights
    check_multiples(name, model.config.patch_size, image_size)
    with wrong_usage():
        return model, load_processor(name, model, fit=fit, image_size=image_size)


def check_name(name: str) -> None:
    """Raises WrongUsage if a name is neither a published model's, nor a path, nor a repository's.

    Raises:
        FileNotFoundError: if it can only be a path, and the path does not exist.
    """
    from stellar_hub.modeling.pretrained_names import resolve_pretrained

    with wrong_usage():
        resolve_pretrained(name)


def check_image_size(
    name: str, image_size: int | tuple[int, int] | None, fit: str = "crop", option: str = "--image-size"
) -> None:
    """Checks that a model can see images of a size, without reading its weights.

    The size for a file of weights is not checked here: its patch size is known with its weights.

    Args:
        name: Published name, folder, Hub repository or file of the model.
        image_size: Side of a square, or height and width, in pixels; None is always right.
        fit: How images are fitted to the size.
        option: Option that has the size.

    Raises:
        OSError: if the model does not exist.
        WrongUsage: if a side is not a multiple of the patch size, or the image would be too large, or
            would have more patches than a file of `S` and `L` may have.
    """
    if image_size is None or Path(name).is_file():
        return
    from stellar_hub.modeling import StellarImageProcessor
    from stellar_hub.modeling.limits import check_limit

    processor = StellarImageProcessor.from_pretrained(name)  # it has the model's patch size
    check_multiples(name, processor.patch_size, image_size, option)
    with wrong_usage():
        StellarImageProcessor.from_pretrained(name, image_size=image_size, fit=fit)
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    patches = height * width // processor.patch_size**2
    with wrong_usage():
        check_limit("code_patches", patches, f"an image of {option} {height}x{width}")
    if patches > MANY_PATCHES:
        warn(
            f"note: images of {height}x{width} pixels have {patches:,} patches, and the time for an image grows with "
            "the square of this number"
        )


def check_multiples(name: str, patch_size: int, size: int | tuple[int, int], option: str = "--image-size") -> None:
    """Raises WrongUsage, with the nearest sizes, unless the patch size of a model divides the sides of an image.

    Args:
        name: Name of the model.
        patch_size: Its patch size in pixels.
        size: Side of a square, or height and width, in pixels.
        option: Option that has the size.
    """
    from stellar_hub.modeling.input_checks import nearest_multiples

    sides = (size,) if isinstance(size, int) else size
    if not any(side % patch_size for side in sides):
        return
    near = [nearest_multiples(side, patch_size) for side in sides]
    nearest = " or ".join(map(str, near[0]))
    if len(sides) == 2:
        nearest = "x".join(
            str(min(found, key=lambda each, side=side: abs(each - side)))  # type: ignore[misc]
            for side, found in zip(sides, near, strict=True)
        )
    raise WrongUsage(
        f"{option} must be a multiple of {patch_size} pixels, the patch size of {name}, such as {nearest}; "
        f"got {'x'.join(map(str, sides))}"
    )


def check_num_tokens(num_tokens: int | None, model: "StellarModel") -> None:
    """Warns if `--num-tokens` asks for the first tokens of a model whose tokens have no order; None asks for all.

    The model warns as it encodes, once; codes are not encoded.

    Raises:
        WrongUsage: if the model has fewer tokens.
    """
    if num_tokens is None:
        return
    if num_tokens > model.config.num_sparse_tokens:
        raise WrongUsage(
            f"--num-tokens must be at most {model.config.num_sparse_tokens}, the model's number of tokens, "
            f"got {num_tokens}"
        )
    model._warn_if_not_ordered(num_tokens)
