"""The work of a server, without HTTP."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("prometheus_client")  # of the extra `serve`

from stellar_hub.modeling import StellarEncoding
from stellar_hub.serving import Service
from stellar_hub.serving.images import ImageFile
from stellar_hub.serving.refusals import Refusal
from stellar_hub.serving.service import all_gpus, batch_sizes_up_to, served_name

from .conftest import Make, hold, image_file


def run(service: Service, work: Callable[[], Awaitable[Any]]) -> Any:
    async def main() -> Any:
        async with service.running():
            return await work()

    return asyncio.run(main())


def test_encode__equals_the_model_for_each_image_whatever_comes_with_it(make_service: Make) -> None:
    service = make_service(num_models=2)
    files = [ImageFile(f"{seed}", image_file(seed)) for seed in range(5)]
    found = run(service, lambda: service.encode(files, ("S", "L", "pooled")))
    assert [image.name for image in found] == ["0", "1", "2", "3", "4"]
    for file, image in zip(files, found, strict=True):
        pixels = service.processor(file.data, return_tensors="pt")["pixel_values"]
        semantics, localization = service.model.encode(pixels)
        torch.testing.assert_close(image.features["S"], semantics[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(image.features["L"], localization[0], atol=1e-6, rtol=0)
        torch.testing.assert_close(image.features["pooled"], semantics[0].mean(dim=0), atol=1e-6, rtol=0)


def test_encode__batches_shapes_apart(make_service: Make) -> None:
    service = make_service(fit="aspect")
    files = [ImageFile(f"{size}", image_file(0, size)) for size in ((40, 80), (40, 40), (40, 80))]
    found = run(service, lambda: service.encode(files, ("S",)))
    assert [image.grid_size for image in found] == [(4, 8), (4, 4), (4, 8)]
    assert b'stellar_hub_batch_images_count{task="encode"} 2.0' in service.metrics.text()


def test_encode__refuses_images_that_cannot_be_read_or_are_too_large(
    make_service: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service()
    with pytest.raises(Refusal, match=r"b\.png"):
        run(service, lambda: service.encode([ImageFile("a", image_file()), ImageFile("b.png", b"x")], ("S",)))
    monkeypatch.setenv("STELLAR_HUB_MAX_REQUEST_PATCHES", "8")
    with pytest.raises(Refusal, match="patches"):
        run(service, lambda: service.encode([ImageFile("a", image_file())], ("S",)))
    assert service.num_accepted == 0


def test_queue__refuses_what_is_beyond_it(make_service: Make) -> None:
    service = make_service(max_queue=2)
    file = ImageFile("a", image_file())

    async def work() -> list[Any]:
        calls = [service.encode([file] * count, ("S",)) for count in (2, 1, 3)]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third = run(service, work)
    assert len(first) == 2
    assert (second.status, third.status) == (429, 413)
    assert second.headers["retry-after"] == "1"


def test_decode__equals_the_model_and_refuses_images_that_are_not_finite(make_service: Make) -> None:
    service = make_service()
    encoding = service.model.encode(torch.rand(2, 3, 32, 32))
    found = run(service, lambda: service.decode([encoding.select(0), encoding.select(1)]))
    torch.testing.assert_close(torch.stack(found), service.model.decode(encoding), atol=1e-6, rtol=0)
    huge = StellarEncoding(torch.full((1, 4, 48), 3e38), torch.full((1, 16, 4), 3e38), (4, 4))
    with pytest.raises(Refusal, match="not finite"):
        run(service, lambda: service.decode([huge]))


def test_abandon__refuses_what_has_no_result(make_service: Make) -> None:
    service, may_go = make_service(), threading.Event()
    begins = hold(service, may_go.is_set)

    async def work() -> Any:
        begins.set()
        call = asyncio.ensure_future(service.encode([ImageFile("a", image_file())], ("S",)))
        while not (left := service.abandon()):
            await asyncio.sleep(0.01)
        assert left == 1
        may_go.set()
        return await asyncio.gather(call, return_exceptions=True)

    (refusal,) = run(service, work)
    assert refusal.status == 503


def test_load__has_a_model_for_each_device_and_shows_no_path(make_service: Make, tmp_path: Path) -> None:
    made = make_service()
    made.model.save_pretrained(tmp_path / "mine")
    made.processor.save_pretrained(tmp_path / "mine")
    service = Service.load(str(tmp_path / "mine"), ["cpu", "cpu"])
    health = service.health()
    assert health["devices"] == ["cpu", "cpu"]
    assert health["model"] == "mine"
    assert health["status"] == "starting"
    assert str(tmp_path) not in str(health)


def test_names__of_devices_models_and_batch_sizes(tmp_path: Path) -> None:
    assert all_gpus("cuda:1") == ["cuda:1"]
    assert all_gpus("auto")
    assert served_name("stellar-tiny") == "stellar-tiny"
    assert served_name(str(tmp_path)) == tmp_path.name
    (tmp_path / "classifier" / "model").mkdir(parents=True)
    assert served_name(str(tmp_path / "classifier" / "model")) == "classifier"
    assert batch_sizes_up_to(32) == [1, 4, 16, 32]
    assert batch_sizes_up_to(1) == [1]
