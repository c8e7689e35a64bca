import copy
import errno
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.utils import send_to_device
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map

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


class TestGrid:
    """What happens to an encoding on its way does not lose the grid."""

    @pytest.fixture
    def wide(self) -> StellarEncoding:
        return StellarEncoding(torch.randn(2, 4, 48), torch.randn(2, 12, 4).softmax(dim=-1), grid_size=(2, 6))

    @pytest.mark.parametrize(
        "change",
        [
            lambda encoding: encoding.select(1),
            lambda encoding: encoding.to(torch.float64),
            lambda encoding: encoding._replace(localization=encoding.localization.flip(-1)),
            lambda encoding: pickle.loads(pickle.dumps(encoding)),
            copy.copy,
            copy.deepcopy,
            lambda encoding: tree_map(torch.clone, encoding),
            lambda encoding: send_to_device({"code": [encoding]}, "cpu", non_blocking=True)["code"][0],
        ],
        ids=["select", "to", "replace", "pickle", "copy", "deepcopy", "pytree", "accelerate"],
    )
    def test_grid__is_kept(self, wide: StellarEncoding, change: Callable[[StellarEncoding], StellarEncoding]) -> None:
        changed = change(wide)
        assert type(changed) is StellarEncoding
        assert changed.grid_size == (2, 6)
        assert "grid_size=(2, 6)" in repr(changed)

    def test_pytree__names_the_fields(self, wide: StellarEncoding) -> None:
        paths = [keystr(path) for path, _ in tree_flatten_with_path(wide)[0]]
        assert paths == [".semantics", ".localization"]

    def test_named_tuple__has_its_two_fields(self, wide: StellarEncoding) -> None:
        assert isinstance(wide, tuple)
        assert len(wide) == 2
        assert wide._fields == ("semantics", "localization")
        assert list(wide._asdict()) == ["semantics", "localization"]

    def test_unknown__is_none(self, encoding: StellarEncoding) -> None:
        assert encoding.grid_size is None
        assert encoding.to(torch.float64).grid_size is None

    def test_save_and_load__keeps_it_in_the_header(self, tmp_path: Path, wide: StellarEncoding) -> None:
        wide.save(tmp_path / "code.safetensors", metadata={"grid_size": "[1, 1]", "source": "cat.jpg"})
        assert StellarEncoding.load(tmp_path / "code.safetensors").grid_size == (2, 6)
        with safe_open(tmp_path / "code.safetensors", framework="pt") as file:
            assert file.metadata() == {"format": "pt", "source": "cat.jpg", "grid_size": "[2, 6]"}

    def test_file_of_an_earlier_release__is_taken_to_be_square(
        self, tmp_path: Path, pixel_model: StellarModel, images: Tensor
    ) -> None:
        encoding = pixel_model.encode(images)
        save_file({name: part.contiguous() for name, part in encoding._asdict().items()}, tmp_path / "old.safetensors")
        loaded = StellarEncoding.load(tmp_path / "old.safetensors")
        assert loaded.grid_size is None
        torch.testing.assert_close(pixel_model.decode(loaded), pixel_model.decode(encoding), rtol=0, atol=0)

    @pytest.mark.parametrize("written", ["2x6", "[2]", "7", '["a", "b"]'])
    def test_damaged_header__is_named(self, tmp_path: Path, encoding: StellarEncoding, written: str) -> None:
        encoding.save(tmp_path / "code.safetensors", metadata={"grid_size": written})
        with pytest.raises(ValueError, match=r"code\.safetensors .*grid_size"):
            StellarEncoding.load(tmp_path / "code.safetensors")


class TestSelect:
    @pytest.mark.parametrize(
        ("index", "kept"),
        [
            (2, [2]),
            (-1, [2]),
            (np.int64(1), [1]),
            (torch.tensor(1), [1]),
            (slice(None, None, 2), [0, 2]),
            (torch.tensor([2, 0]), [2, 0]),
            (torch.tensor([True, False, True]), [0, 2]),
        ],
    )
    def test_index__keeps_a_batch_of_these_images(
        self, encoding: StellarEncoding, index: int | slice | Tensor, kept: list[int]
    ) -> None:
        assert_same(encoding.select(index), StellarEncoding(encoding.semantics[kept], encoding.localization[kept]))

    @pytest.mark.parametrize("index", [3, np.int64(-4)])
    def test_out_of_range__names_index_and_size(self, encoding: StellarEncoding, index: int) -> None:
        with pytest.raises(IndexError, match=rf"index {int(index)} .* 3"):
            encoding.select(index)

    def test_one_image__can_be_decoded(self, pixel_model: StellarModel, images: Tensor) -> None:
        encoding = pixel_model.encode(images)
        expected = pixel_model.decode(*encoding)[1:]
        # One image instead of two: matrix products may sum in another order.
        torch.testing.assert_close(pixel_model.decode(*encoding.select(1)), expected, rtol=0, atol=1e-5)


class TestTo:
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
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
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
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
        with pytest.raises(FileNotFoundError, match="nowhere"):
            encoding.save(tmp_path / "nowhere" / "code.safetensors")


class TestLoadBadFile:
    @pytest.mark.parametrize("kind", ["missing", "folder"])
    def test_no_file__is_named(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "nothing.safetensors" if kind == "missing" else tmp_path
        with pytest.raises(FileNotFoundError, match=rf"{path}$"):
            StellarEncoding.load(path)

    @pytest.mark.parametrize("kept", [0, 60, -1])
    def test_truncated__is_named(self, tmp_path: Path, encoding: StellarEncoding, kept: int) -> None:
        path = tmp_path / "code.safetensors"
        encoding.save(path)
        path.write_bytes(path.read_bytes()[:kept])
        with pytest.raises(ValueError, match=r"code\.safetensors cannot be read"):
            StellarEncoding.load(path)

    def test_other_kind_of_file__is_named(self, tmp_path: Path) -> None:
        path = tmp_path / "letter.txt"
        path.write_text("This is a letter, and by no means a file of tensors.")
        with pytest.raises(ValueError, match=r"letter\.txt cannot be read"):
            StellarEncoding.load(path)

    def test_pickle__is_never_unpickled(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        path = tmp_path / "code.safetensors"
        torch.save(encoding._asdict(), path)
        with pytest.raises(ValueError, match=r"code\.safetensors cannot be read"):
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
        with pytest.raises(ValueError, match=rf"code\.safetensors .*{lacking}$"):
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
