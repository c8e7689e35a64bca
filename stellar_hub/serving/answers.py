"""Answers: JSON, safetensors or PNG, as the request accepts them."""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save as serialize
from torch import Tensor

from stellar_hub.extras import require
from stellar_hub.modeling.localization_maps import to_pil
from stellar_hub.modeling.safe_text import one_line
from stellar_hub.serving.refusals import Refusal
from stellar_hub.serving.service import Encoded

JSON, SAFETENSORS, PNG = "application/json", "application/safetensors", "image/png"
OTHER_NAMES = {"application/octet-stream": SAFETENSORS, "application/*": JSON, "image/*": PNG}
FILE_NAMES = {"S": "semantics", "L": "localization"}  # as `StellarEncoding.save` and `load` have them

Response: Any = require("starlette.responses", "serve", "the server").responses.Response


def chosen_type(accept: str, offered: Sequence[str]) -> str:
    """Returns the media type of an answer.

    Args:
        accept: The request's Accept header. Its types are tried in their order; "" and "*/*" take the first offer.
        offered: The types that there are, the usual one first.

    Raises:
        Refusal: if none is accepted.
    """
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",")]
    for name in wanted:
        name = OTHER_NAMES.get(name, name)
        if name in ("", "*/*"):
            return offered[0]
        if name in offered:
            return name
    raise Refusal(406, f"this answer comes as {' or '.join(offered)}, the request accepts {one_line(accept, 100)}")


def json_answer(value: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None) -> Any:
    """Returns an answer in JSON."""
    return Response(json.dumps(value), status, dict(headers or {}), JSON)


def error_answer(refusal: Refusal) -> Any:
    """Returns an error as OpenAI's API writes it."""
    return json_answer(refusal.body, refusal.status, refusal.headers)


def encoded_answer(images: Sequence[Encoded], model: str, kind: str) -> Any:
    """Returns features of images.

    Safetensors have the names of `StellarEncoding.save`, with a batch dimension. Images of different grids have tensors
    of their own, whose names begin with the number of the image: "0.localization".

    Args:
        images: The images.
        model: Name of the model.
        kind: `JSON` or `SAFETENSORS`.
    """
    if kind == JSON:
        return json_answer({"model": model, "data": [_described(number, image) for number, image in enumerate(images)]})
    grids = [list(image.grid_size) for image in images]
    metadata = {"format": "pt", "model": model, "names": json.dumps([image.name for image in images])}
    if all(grid == grids[0] for grid in grids):
        stacks = {name: torch.stack([image.features[name] for image in images]) for name in images[0].features}
        tensors = {FILE_NAMES.get(name, name): stack for name, stack in stacks.items()}
        metadata["grid_size"] = json.dumps(grids[0])
    else:
        tensors = {
            f"{number}.{FILE_NAMES.get(name, name)}": tensor.contiguous()
            for number, image in enumerate(images)
            for name, tensor in image.features.items()
        }
        metadata["grid_sizes"] = json.dumps(grids)
    return Response(serialize(tensors, metadata), media_type=SAFETENSORS)


def _described(number: int, image: Encoded) -> dict[str, Any]:
    features = {name: tensor.tolist() for name, tensor in image.features.items()}
    return {"index": number, "name": image.name, "grid_size": list(image.grid_size), **features}


def embedded_answer(images: Sequence[Encoded], model: str, as_base64: bool) -> Any:
    """Returns the mean tokens of images, of length 1, as OpenAI's API has embeddings."""
    vectors = F.normalize(torch.stack([image.features["pooled"] for image in images]), dim=-1)
    patches = sum(image.grid_size[0] * image.grid_size[1] for image in images)
    data = [
        {"object": "embedding", "index": number, "embedding": _base64_of(vector) if as_base64 else vector.tolist()}
        for number, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": patches, "total_tokens": patches}
    return json_answer({"object": "list", "data": data, "model": model, "usage": usage})


def _base64_of(vector: Tensor) -> str:
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()


def decoded_answer(images: Sequence[Tensor], model: str, kind: str) -> Any:
    """Returns decoded images.

    Args:
        images: Images, `(3, H, W)` in [0, 1].
        model: Name of the model.
        kind: `PNG` for one image, `JSON` with data URLs, or `SAFETENSORS` with a tensor `images`, `(B, 3, H, W)`, or
            one for each image if their sizes differ: "0.images".
    """
    if kind == PNG:
        return Response(png_of(images[0]), media_type=PNG)
    if kind == JSON:
        texts = [f"data:{PNG};base64,{base64.b64encode(png_of(image)).decode()}" for image in images]
        items = [
            {"index": number, "height": image.shape[1], "width": image.shape[2], "image": text}
            for number, (image, text) in enumerate(zip(images, texts, strict=True))
        ]
        return json_answer({"model": model, "data": items})
    if len({image.shape for image in images}) == 1:
        tensors = {"images": torch.stack(list(images))}
    else:
        tensors = {f"{number}.images": image.contiguous() for number, image in enumerate(images)}
    return Response(serialize(tensors, {"format": "pt", "model": model}), media_type=SAFETENSORS)


def png_of(image: Tensor) -> bytes:
    """Returns an image `(3, H, W)` in [0, 1] as the bytes of a PNG."""
    buffer = io.BytesIO()
    to_pil(image).save(buffer, "PNG")
    return buffer.getvalue()
