import copy
import errno
import io
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


def _through_torch_save(encoding: StellarEncoding) -> StellarEncoding:
    buffer = io.BytesIO()
    torch.save(encoding, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


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
            _through_torch_save,
            copy.copy,
            copy.deepcopy,
            lambda encoding: tree_map(torch.clone, encoding),
            lambda encoding: send_to_device({"code": [encoding]}, "cpu", non_blocking=True)["code"][0],
        ],
        ids=["select", "to", "replace", "pickle", "torch_save", "copy", "deepcopy", "pytree", "accelerate"],
    )
    def test_grid__is_kept(self, wide: StellarEncoding, change: Callable[[StellarEncoding], StellarEncoding]) -> None:
        changed = change(wide)
        assert type(changed) is StellarEncoding
        assert changed.grid_size == (2, 6)
        assert "grid_size=(2, 6)" in repr(changed)

    def test_repr__is_one_short_line(self, wide: StellarEncoding) -> None:
        assert repr(wide) == (
            f"StellarEncoding(semantics=float32{tuple(wide.semantics.shape)}, "
            f"localization=float32{tuple(wide.localization.shape)}, grid_size={wide.grid_size})"
        )

    def test_cpu_and_detach__keep_values_and_grid(self, wide: StellarEncoding) -> None:
        attached = wide._replace(semantics=wide.semantics.clone().requires_grad_())
        for changed in (attached.detach(), attached.detach().cpu()):
            assert not changed.semantics.requires_grad
            assert torch.equal(changed.semantics, wide.semantics)
            assert changed.grid_size == wide.grid_size
        assert attached.cpu().semantics.requires_grad

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
            metadata = file.metadata()
        assert len(metadata.pop("sha256")) == 64
        assert metadata == {"format": "pt", "source": "cat.jpg", "grid_size": "[2, 6]"}

    def test_file_of_an_earlier_release__is_taken_to_be_square(
        self, tmp_path: Path, pixel_model: StellarModel, images: Tensor
    ) -> None:
        encoding = pixel_model.encode(images)
        save_file({name: part.contiguous() for name, part in encoding._asdict().items()}, tmp_path / "old.safetensors")
        loaded = StellarEncoding.load(tmp_path / "old.safetensors")
        assert loaded.grid_size is None
        torch.testing.assert_close(pixel_model.decode(loaded), pixel_model.decode(encoding), rtol=0, atol=0)

    @pytest.mark.parametrize(
        "written",
        [
            "2x6",
            "[2]",
            "7",
            '["a", "b"]',
            "[1e999, 2]",
            "[Infinity, 0]",
            "[NaN, 1]",
            "[4.0, 4]",
            "[true, 16]",
            "[-4, -4]",
            "[4, 4, 1]",
            "[" * 100_000,
            "[" + "9" * 5000 + ", 1]",
            "null",
            "[0, 16]",
        ],
    )
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

    def test_num_tokens__keeps_the_first_and_shares_each_patch_among_them(self, encoding: StellarEncoding) -> None:
        semantics, localization = encoding.select(num_tokens=2)
        shares = encoding.localization[..., :2]
        torch.testing.assert_close(semantics, encoding.semantics[:, :2], rtol=0, atol=0)
        torch.testing.assert_close(localization, shares / shares.sum(dim=-1, keepdim=True))
        assert_same(encoding.select(1, num_tokens=2), StellarEncoding(semantics[[1]], localization[[1]]))

    def test_all_tokens__are_kept_as_they_are(self, encoding: StellarEncoding) -> None:
        assert_same(encoding.select(num_tokens=4), encoding)
        assert StellarEncoding(*encoding, (4, 4)).select(num_tokens=2).grid_size == (4, 4)

    def test_num_tokens__out_of_range_is_named(self, encoding: StellarEncoding) -> None:
        with pytest.raises(ValueError, match=r"from 1 to 4, .* got 5"):
            encoding.select(num_tokens=5)

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
        turned = StellarEncoding(encoding.semantics[1:, :, ::2], encoding.localization[1:, ::2])
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
            assert set(file.metadata()) == {"format", "source", "sha256"}
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

    @pytest.mark.parametrize(
        ("semantics", "localization", "match"),
        [
            (torch.ones(1, 4, 8), torch.ones(2, 16, 4), "same batch size"),
            (torch.ones(1, 4, 8), torch.ones(1, 16, 3), "number of tokens"),
            (torch.ones(4, 8), torch.ones(16, 4), "expected"),
            (torch.ones(1, 4, 8), torch.full((1, 16, 4), torch.nan), "localization has values"),
            (torch.full((1, 4, 8), torch.inf), torch.ones(1, 16, 4), "semantics has values"),
            (torch.ones(1, 4, 8, dtype=torch.int8), torch.ones(1, 16, 4), "I8"),
            (torch.ones(1, 4, 8), torch.ones(1, 16, 4, dtype=torch.bool), "BOOL"),
        ],
        ids=["batch", "tokens", "dimensions", "nan", "inf", "integers", "booleans"],
    )
    def test_tensors_that_are_no_code__are_named(
        self, tmp_path: Path, semantics: Tensor, localization: Tensor, match: str
    ) -> None:
        path = tmp_path / "code.safetensors"
        save_file({"semantics": semantics, "localization": localization}, path)
        with pytest.raises(ValueError, match=rf"code\.safetensors.*{match}"):
            StellarEncoding.load(path)

    def test_grid_of_another_size__is_named(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        encoding.save(tmp_path / "code.safetensors", metadata={"grid_size": "[5, 4]"})
        with pytest.raises(ValueError, match=r"code\.safetensors.*\(5, 4\)"):
            StellarEncoding.load(tmp_path / "code.safetensors")

    @pytest.mark.parametrize("variable", ["CODE_PATCHES", "TENSOR_ELEMENTS"])
    def test_limit__is_checked(
        self, tmp_path: Path, encoding: StellarEncoding, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        encoding.save(tmp_path / "code.safetensors")
        monkeypatch.setenv(f"STELLAR_HUB_MAX_{variable}", "15")
        with pytest.raises(ValueError, match=rf"code\.safetensors.*STELLAR_HUB_MAX_{variable}"):
            StellarEncoding.load(tmp_path / "code.safetensors")

    @pytest.mark.parametrize(
        "header",
        [
            '{"__metadata__":{"grid_size":7}}',
            '{"__metadata__":[]}',
            '{"semantics":{"dtype":"F32","shape":[99999999999,4,8],"data_offsets":[0,8]}}',
            '{"semantics":{"dtype":"F32","shape":[-1],"data_offsets":[0,8]}}',
            '{"semantics":{"dtype":"F99","shape":[1],"data_offsets":[0,8]}}',
        ],
    )
    def test_damaged_header__is_one_value_error(self, tmp_path: Path, header: str) -> None:
        path = tmp_path / "code.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header.encode() + bytes(8))
        with pytest.raises(ValueError, match=r"code\.safetensors cannot be read"):
            StellarEncoding.load(path)

    def test_changed_byte__is_noticed(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        path = tmp_path / "code.safetensors"
        encoding.save(path)
        content = bytearray(path.read_bytes())
        content[-3] ^= 1
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"code\.safetensors was changed"):
            StellarEncoding.load(path)

    def test_name_with_control_characters__is_written_out(self, tmp_path: Path) -> None:
        path = tmp_path / "a\x1b[31m\n.safetensors"
        path.write_bytes(b"")
        with pytest.raises(ValueError, match=r"a\\x1b\[31m") as caught:
            StellarEncoding.load(path)
        assert str(caught.value).isprintable()

    def test_save_of_tensors_that_do_not_fit__is_refused(self, tmp_path: Path, encoding: StellarEncoding) -> None:
        with pytest.raises(ValueError, match="number of tokens"):
            StellarEncoding(encoding.semantics, encoding.localization[..., :2]).save(tmp_path / "code.safetensors")
        assert list(tmp_path.iterdir()) == []


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
