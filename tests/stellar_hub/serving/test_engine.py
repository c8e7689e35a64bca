"""A model on one device."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.modeling import StellarModel
from stellar_hub.serving.engine import DECODE, ENCODE, BatchKey, Engine, ToEncode

KEY = BatchKey(ENCODE, (3, 32, 32), torch.uint8, 16)


@pytest.fixture
def engine(shared_pixel_model: StellarModel) -> Engine:
    return Engine(copy.deepcopy(shared_pixel_model))


def pixels(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_run__gives_each_image_what_it_asked_for(engine: Engine, shared_pixel_model: StellarModel) -> None:
    images = pixels(3)
    wanted = [("S",), ("L", "cls"), ("pooled", "patches")]
    found = engine.run(KEY, [ToEncode(image, outputs) for image, outputs in zip(images, wanted, strict=True)])
    assert [tuple(features) for features in found] == wanted
    expected = shared_pixel_model(images)
    torch.testing.assert_close(found[0]["S"], expected.last_hidden_state[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[1]["cls"], expected.cls_token[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(found[2]["pooled"], expected.pooler_output[2], atol=1e-6, rtol=0)


@pytest.mark.parametrize("outputs", [("S", "L"), ("S", "L", "cls")])
def test_run__does_not_depend_on_the_others_of_a_batch(engine: Engine, outputs: tuple[str, ...]) -> None:
    images = [ToEncode(image, outputs) for image in pixels(5)]
    whole = engine.run(KEY, images)
    for image, together in zip(images, whole, strict=True):
        (alone,) = engine.run(KEY, [image])
        for name in outputs:
            torch.testing.assert_close(together[name], alone[name], atol=1e-6, rtol=0)


def test_run__decodes(engine: Engine, shared_pixel_model: StellarModel) -> None:
    encoding = shared_pixel_model.encode(pixels(2))
    key = BatchKey(DECODE, (16, 4, 4, 4), torch.float32, 16)
    found = engine.run(key, [encoding.select(0), encoding.select(1)])
    torch.testing.assert_close(torch.stack(found), shared_pixel_model.decode(encoding), atol=1e-6, rtol=0)


def test_run__halves_batches_that_do_not_fit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [ToEncode(image, ("S",)) for image in pixels(5)]
    expected = engine.run(KEY, images)
    encode, sizes = engine.model.encode, []

    def narrow(batch: Tensor) -> Any:
        sizes.append(len(batch))
        if len(batch) > 2:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
        return encode(batch)

    monkeypatch.setattr(engine.model, "encode", narrow)
    found = engine.run(KEY, images)
    assert sizes == [5, 2, 2, 1]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one["S"], other["S"], atol=1e-6, rtol=0)
    engine.run(KEY, images[:3])
    assert sizes[4:] == [2, 1]


def test_run__raises_if_one_image_does_not_fit(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(batch: Tensor) -> Any:
        raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")

    monkeypatch.setattr(engine.model, "encode", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        engine.run(KEY, [ToEncode(pixels(1)[0], ("S",))])
