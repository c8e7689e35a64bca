from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from stellar_hub.features.backbones.stellar import as_backbone
from stellar_hub.features.encoding import BatchEncoder, choose_precision, finite_rows
from stellar_hub.features.preparation import PreparedBatch
from stellar_hub.features.rows import ImageRecord
from stellar_hub.modeling import StellarModel

IMAGES = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def prepared(images: Tensor | None, errors: tuple[int, ...] = ()) -> PreparedBatch:
    count = (0 if images is None else len(images)) + len(errors)
    records = [ImageRecord(row, str(row), error="bad" if row in errors else None) for row in range(count)]
    return PreparedBatch(records, images)


def limit_memory(model: StellarModel, most: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the model fail like a GPU that is full where a batch is larger than `most`; the batches that it saw."""
    forward, seen = model.forward, []

    def limited(pixel_values: Tensor, **options: Any) -> Any:
        seen.append(len(pixel_values))
        if len(pixel_values) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(pixel_values, **options)

    monkeypatch.setattr(model, "forward", limited)
    return seen


def test_features__are_the_models(pixel_model: StellarModel) -> None:
    encoder = BatchEncoder(as_backbone(pixel_model), ("S", "L", "pooled"))
    (batch,) = encoder.encode_all([prepared(IMAGES)])
    with torch.inference_mode():
        expected = pixel_model(IMAGES)
    torch.testing.assert_close(batch["S"], expected.last_hidden_state, atol=0, rtol=0)
    torch.testing.assert_close(batch["L"], expected.localization, atol=0, rtol=0)
    torch.testing.assert_close(batch["pooled"], expected.pooler_output, atol=0, rtol=0)
    assert batch.ok.all()


def test_rows_with_an_error__are_nan_and_shift_nothing(pixel_model: StellarModel) -> None:
    encoder = BatchEncoder(as_backbone(pixel_model), ("pooled",))
    (batch,) = encoder.encode_all([prepared(IMAGES[:3], errors=(1,))])
    assert batch.ok.tolist() == [True, False, True, True]
    assert batch["pooled"].isnan().any(dim=1).tolist() == [False, True, False, False]
    (expected,) = encoder.encode_all([prepared(IMAGES[:3])])
    torch.testing.assert_close(batch["pooled"][batch.ok], expected["pooled"], atol=0, rtol=0)


def test_batch_of_errors__passes_the_model_by(pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = limit_memory(pixel_model, 8, monkeypatch)
    (batch,) = BatchEncoder(as_backbone(pixel_model), ("S",)).encode_all([prepared(None, errors=(0, 1))])
    assert batch["S"].shape == (2, 4, 48)
    assert batch["S"].isnan().all()
    assert seen == []


def test_full_memory__halves_the_batch_and_goes_on(pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = BatchEncoder(as_backbone(pixel_model), ("pooled",))
    expected = encoder.encode(IMAGES)["pooled"]
    seen = limit_memory(pixel_model, 3, monkeypatch)
    batches = list(encoder.encode_all([prepared(IMAGES), prepared(IMAGES)]))
    assert seen == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2]
    assert encoder.largest_piece == 2
    for batch in batches:
        torch.testing.assert_close(batch["pooled"], expected, atol=1e-5, rtol=1e-5)


def test_memory_for_no_single_image__is_an_error(pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch) -> None:
    limit_memory(pixel_model, 0, monkeypatch)
    with pytest.raises(torch.OutOfMemoryError):
        BatchEncoder(as_backbone(pixel_model), ("pooled",)).encode(IMAGES)


def test_other_errors__are_not_taken_for_full_memory(
    pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr(pixel_model, "forward", fail)
    with pytest.raises(RuntimeError, match="something else"):
        BatchEncoder(as_backbone(pixel_model), ("pooled",)).encode(IMAGES)


def test_features_that_are_not_finite__are_an_error_of_their_row(
    pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = pixel_model.forward

    def overflow(pixel_values: Tensor) -> Any:
        output = forward(pixel_values)
        output.pooler_output = output.pooler_output.clone()
        output.pooler_output[1] = 1e6
        return output

    monkeypatch.setattr(pixel_model, "forward", overflow)
    encoder = BatchEncoder(as_backbone(pixel_model), ("S", "pooled"), dtype=torch.float16)
    (batch,) = encoder.encode_all([prepared(IMAGES)])
    assert batch.ok.tolist() == [True, False, *[True] * 6]
    assert batch["S"][1].isnan().all()
    assert batch.records[1].error == "the model's features are not finite, computed in float32 and kept in float16"


def test_mixed_precision__is_near_and_not_the_same(pixel_model: StellarModel) -> None:
    whole = BatchEncoder(as_backbone(pixel_model), ("pooled",)).encode(IMAGES)["pooled"]
    half = BatchEncoder(as_backbone(pixel_model), ("pooled",), "bfloat16").encode(IMAGES)["pooled"]
    torch.testing.assert_close(half, whole, atol=0.1, rtol=0.1)
    assert not torch.equal(half, whole)


def test_precision__is_checked(pixel_model: StellarModel) -> None:
    with pytest.raises(ValueError, match=r"precision must be .*got 'int8'"):
        BatchEncoder(as_backbone(pixel_model), ("S",), "int8")


def test_auto_precision__is_float32_on_a_cpu_and_bfloat16_where_a_gpu_has_it(
    pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = as_backbone(pixel_model)
    assert choose_precision("auto", backbone) == "float32"
    monkeypatch.setattr(backbone, "device", torch.device("cuda"))
    for has_it, expected in ((True, "bfloat16"), (False, "float32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda has_it=has_it, **options: has_it)
        assert choose_precision("auto", backbone) == expected
        assert choose_precision("float16", backbone) == "float16"


def test_auto_precision__keeps_the_dtype_of_half_weights(
    pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = as_backbone(pixel_model.half())
    monkeypatch.setattr(backbone, "device", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **options: True)
    assert choose_precision("auto", backbone) == "float32"


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_finite_rows__finds_every_kind_of_bad_value(bad: float, dtype: torch.dtype) -> None:
    first, second = torch.randn(4, 3, 5).to(dtype), torch.randn(4).to(dtype)
    first[1, 2, 4] = bad
    second[3] = bad
    assert finite_rows([first, second]).tolist() == [True, False, True, False]


def test_features__can_train_a_head(pixel_model: StellarModel) -> None:
    (batch,) = BatchEncoder(as_backbone(pixel_model), ("pooled",)).encode_all([prepared(IMAGES)])
    head = torch.nn.Linear(48, 2)
    head(batch["pooled"]).sum().backward()
    assert head.weight.grad is not None
    assert not batch["pooled"].requires_grad


def test_gpu__has_two_batches_more_than_are_fetched(pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = BatchEncoder(as_backbone(pixel_model), ("pooled",))
    expected = [batch["pooled"] for batch in encoder.encode_all([prepared(image[None]) for image in IMAGES])]
    monkeypatch.setattr(BatchEncoder, "on_gpu", True)  # in its order only: there is no GPU
    taken: list[int] = []

    def batches() -> Iterator[PreparedBatch]:
        for number, image in enumerate(IMAGES):
            taken.append(number)
            yield prepared(image[None])

    for number, batch in enumerate(encoder.encode_all(batches())):
        assert torch.equal(batch["pooled"], expected[number])
        assert len(taken) == min(number + 3, len(IMAGES))
