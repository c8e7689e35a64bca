import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from stellar_hub.modeling import StellarEncoding, StellarModel, StellarModelOutput


@pytest.fixture
def encoding() -> StellarEncoding:
    return StellarEncoding(torch.randn(3, 4, 48), torch.randn(3, 16, 4).softmax(dim=-1))


def assert_same(actual: StellarEncoding, expected: StellarEncoding) -> None:
    assert isinstance(actual, StellarEncoding)
    torch.testing.assert_close(actual.semantics, expected.semantics, rtol=0, atol=0)
    torch.testing.assert_close(actual.localization, expected.localization, rtol=0, atol=0)


class TestTuple:
    def test_unpacking__gives_s_then_l(self, encoding: StellarEncoding) -> None:
        semantics, localization = encoding
        assert semantics is encoding.semantics
        assert localization is encoding.localization

    def test_encode__returns_one(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images)
        assert isinstance(encoding, StellarEncoding)
        assert encoding.semantics.shape == (2, 4, 48)
        assert encoding.localization.shape == (2, 16, 4)


class TestSelect:
    @pytest.mark.parametrize(
        ("index", "kept"),
        [
            (0, [0]),
            (2, [2]),
            (-1, [2]),
            (-3, [0]),
            (np.int64(1), [1]),
            (torch.tensor(1), [1]),
            (slice(1, 3), [1, 2]),
            (slice(None), [0, 1, 2]),
            (slice(None, None, 2), [0, 2]),
            (torch.tensor([2, 0]), [2, 0]),
            (torch.tensor([True, False, True]), [0, 2]),
        ],
    )
    def test_index__keeps_a_batch_of_these_images(
        self, encoding: StellarEncoding, index: int | slice | Tensor, kept: list[int]
    ) -> None:
        assert_same(encoding.select(index), StellarEncoding(encoding.semantics[kept], encoding.localization[kept]))

    @pytest.mark.parametrize("index", [3, -4, np.int64(7), torch.tensor(3)])
    def test_out_of_range__names_index_and_size(self, encoding: StellarEncoding, index: int) -> None:
        with pytest.raises(IndexError, match=rf"index {int(index)} is out of range for a batch of 3"):
            encoding.select(index)

    def test_one_image__can_be_decoded(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images)
        expected = pixel_model.decode(*encoding)[1:]
        # One image instead of two: matrix products may sum in another order.
        torch.testing.assert_close(pixel_model.decode(*encoding.select(1)), expected, rtol=0, atol=1e-5)


class TestTo:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_dtype__is_that_of_both(self, encoding: StellarEncoding, dtype: torch.dtype) -> None:
        expected = StellarEncoding(encoding.semantics.to(dtype), encoding.localization.to(dtype))
        assert_same(encoding.to(dtype), expected)
        assert_same(encoding.to("cpu", dtype=dtype), expected)

    def test_device__is_that_of_both(self, encoding: StellarEncoding) -> None:
        moved = encoding.to("meta")
        assert moved.semantics.is_meta
        assert moved.localization.is_meta
        assert encoding.semantics.device.type == "cpu"


class TestSaveLoad:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
    def test_round_trip__is_bit_equal(self, tmp_path: Path, encoding: StellarEncoding, dtype: torch.dtype) -> None:
        encoding.to(dtype).save(tmp_path / "code.safetensors")
        assert_same(StellarEncoding.load(str(tmp_path / "code.safetensors")), encoding.to(dtype))
        assert [path.name for path in tmp_path.iterdir()] == ["code.safetensors"]

    def test_views__are_saved_as_what_they_show(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        turned = StellarEncoding(encoding.semantics.transpose(1, 2), encoding.localization[1:, ::2])
        turned.save(tmp_path / "code.safetensors")
        assert_same(StellarEncoding.load(tmp_path / "code.safetensors"), turned)

    def test_gradients__are_left_behind(self, tmp_path: Path, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images)
        assert encoding.semantics.requires_grad
        encoding.save(tmp_path / "code.safetensors")
        loaded = StellarEncoding.load(tmp_path / "code.safetensors")
        assert not loaded.semantics.requires_grad
        assert_same(loaded, StellarEncoding(encoding.semantics.detach(), encoding.localization.detach()))

    def test_metadata__is_in_the_header(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        encoding.save(tmp_path / "code.safetensors", metadata={"source": "cat.jpg"})
        with safe_open(tmp_path / "code.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt", "source": "cat.jpg"}
            assert set(file.keys()) == {"semantics", "localization"}

    def test_save_over_an_old_file__replaces_it(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        encoding.save(tmp_path / "code.safetensors")
        encoding.select(0).save(tmp_path / "code.safetensors")
        assert_same(StellarEncoding.load(tmp_path / "code.safetensors"), encoding.select(0))

    def test_failed_save__leaves_the_old_file_alone(
        self, tmp_path: Path, encoding: StellarEncoding, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoding.save(tmp_path / "code.safetensors")

        def fail(source: Path, destination: Path) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="No space left on device"):
            encoding.select(0).save(tmp_path / "code.safetensors")
        assert_same(StellarEncoding.load(tmp_path / "code.safetensors"), encoding)
        assert [path.name for path in tmp_path.iterdir()] == ["code.safetensors"]

    def test_save_into_a_missing_folder__names_it(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        with pytest.raises(FileNotFoundError, match=r"the folder .*nowhere does not exist"):
            encoding.save(tmp_path / "nowhere" / "code.safetensors")


class TestLoadBadFile:
    @pytest.mark.parametrize("kind", ["missing", "folder"])
    def test_no_file__is_named(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "nothing.safetensors" if kind == "missing" else tmp_path
        with pytest.raises(FileNotFoundError, match=rf"no such file: {path}$"):
            StellarEncoding.load(path)

    @pytest.mark.parametrize("kept", [0, 4, 60, -1])
    def test_truncated__is_named(self, tmp_path: Path, encoding: StellarEncoding, kept: int) -> None:
        path = tmp_path / "code.safetensors"
        encoding.save(path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=r"code\.safetensors cannot be read as safetensors \(damaged or cut short"):
            StellarEncoding.load(path)

    def test_other_kind_of_file__is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.txt"
        path.write_text("This is a letter, and by no means a file of tensors.")
        with pytest.raises(ValueError, match=r"letter\.txt cannot be read as safetensors"):
            StellarEncoding.load(path)

    def test_pickle__is_never_unpickled(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        path = tmp_path / "code.safetensors"
        torch.save(encoding._asdict(), path)
        with pytest.raises(ValueError, match=r"code\.safetensors cannot be read as safetensors"):
            StellarEncoding.load(path)

    @pytest.mark.parametrize(
        ("names", "lacking"),
        [
            (["semantics"], "localization"),
            (["localization", "other"], "semantics"),
            (["weight"], "localization, semantics"),
        ],
    )
    def test_other_tensors__names_those_lacking(self, tmp_path: Path, names: list[str], lacking: str) -> None:
        path = tmp_path / "code.safetensors"
        save_file({name: torch.zeros(2) for name in names}, path)
        with pytest.raises(ValueError, match=rf"code\.safetensors is not a saved encoding: it lacks {lacking}$"):
            StellarEncoding.load(path)

    def test_more_tensors__are_no_harm(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        path = tmp_path / "code.safetensors"
        save_file(encoding._asdict() | {"extra": torch.zeros(1)}, path)
        assert_same(StellarEncoding.load(path), encoding)


class TestModelOutput:
    def test_fields__are_in_the_order_pipelines_read(self) -> None:
        assert list(StellarModelOutput.__dataclass_fields__) == [
            "last_hidden_state",
            "pooler_output",
            "localization",
            "patch_features",
            "cls_token",
            "reconstruction",
            "hidden_states",
        ]

    def test_index__skips_what_is_none(self) -> None:
        first, third = torch.zeros(1), torch.ones(1)
        output = StellarModelOutput(last_hidden_state=first, localization=third)
        assert output[0] is first
        assert output[1] is third
        assert output["localization"] is third
        assert output.reconstruction is None
        assert len(output.to_tuple()) == 2
