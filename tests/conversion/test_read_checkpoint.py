"""Tests of `conversion/read_checkpoint.py`."""

import io
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from stellar_hub.conversion.read_checkpoint import read_checkpoint

StateDict = dict[str, Tensor]
TEXT = b"The photographs are in the other folder.\nAsk Anna for the weights.\n"
DAMAGED = "damaged.* not a PyTorch checkpoint$"
REFUSED = r"\w+\.system"


class Plain:
    """Some class that a checkpoint may hold an object of."""


class Gadget:
    """Unpickled without care, it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def pickled(content: object) -> bytes:
    """What `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


@pytest.fixture
def tensors() -> StateDict:
    """Two tensors."""
    return {"a.weight": torch.rand(3, 4), "b": torch.arange(5)}


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Writes a file with these bytes."""

    def write(name: str, content: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(content)
        return path

    return write


def assert_same(actual: StateDict, wanted: StateDict) -> None:
    assert actual.keys() == wanted.keys()
    for name, tensor in wanted.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=0)


def test_read_checkpoint__reads_safetensors(tensors: StateDict, tmp_path: Path) -> None:
    save_file(tensors, tmp_path / "x.safetensors")
    assert_same(read_checkpoint(tmp_path / "x.safetensors"), tensors)
    assert_same(read_checkpoint(str(tmp_path / "x.safetensors")), tensors)


@pytest.mark.parametrize(("zipped", "suffix"), [(True, ".bin"), (False, ".pt"), (True, "")])
def test_read_checkpoint__reads_what_torch_saves(zipped: bool, suffix: str, tensors: StateDict, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    torch.save(tensors, path, _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(path), tensors)


def test_read_checkpoint__reads_the_state_dict_of_a_lightning_checkpoint(
    tensors: StateDict, write: Callable[[str, bytes], Path]
) -> None:
    content = {
        "epoch": 3,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": tensors,
        "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}}],
        "hyper_parameters": {"lr": 1e-3, "name": "x"},
    }
    assert_same(read_checkpoint(write("last.ckpt", pickled(content))), tensors)


def test_read_checkpoint__keeps_a_tensor_that_is_called_state_dict(write: Callable[[str, bytes], Path]) -> None:
    tensors = {"state_dict": torch.rand(2)}
    assert_same(read_checkpoint(write("x.bin", pickled(tensors))), tensors)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_read_checkpoint__maps_the_file(name: str, tensors: StateDict, tmp_path: Path) -> None:
    path = tmp_path / name
    save_file(tensors, path) if path.suffix == ".safetensors" else torch.save(tensors, path)
    read = read_checkpoint(path)
    ranges = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    for tensor in read.values():
        bounds = [(int(start, 16), int(end, 16)) for start, end in (one.split("-") for one in ranges)]
        assert any(start <= tensor.data_ptr() < end for start, end in bounds)


@pytest.mark.parametrize("name", ["x.safetensors", "x.bin"])
def test_read_checkpoint__names_a_missing_file(name: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"no such checkpoint file: {re.escape(str(tmp_path / name))}"):
        read_checkpoint(tmp_path / name)


def test_read_checkpoint__asks_for_a_file_where_it_gets_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{re.escape(str(tmp_path))} is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize("kept", [0, 0.5, -1])
def test_read_checkpoint__names_a_truncated_safetensors_file(
    kept: float, golden_dir: Path, write: Callable[[str, bytes], Path]
) -> None:
    whole = (golden_dir / "original-vq.safetensors").read_bytes()
    path = write("cut.safetensors", whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged.* not a safetensors file"):
        read_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 1, 0.5, -1])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_read_checkpoint__names_a_truncated_pickled_file(
    zipped: bool, kept: float, tensors: StateDict, write: Callable[[str, bytes], Path]
) -> None:
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    path = write("cut.bin", whole[: int(kept * len(whole)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} .*{DAMAGED}"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        TEXT,
        b"<!DOCTYPE html><html><body>Not Found</body></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n",
        bytes(64),
        b"X\x88",
    ],
    ids=["text", "html", "git-lfs", "zeros", "half an instruction"],
)
def test_read_checkpoint__names_a_foreign_file(content: bytes, write: Callable[[str, bytes], Path]) -> None:
    path = write("foreign.safetensors", content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged.* not a safetensors file"):
        read_checkpoint(path)
    path = write("foreign.bin", content)
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} .*{DAMAGED}"):
        read_checkpoint(path)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_read_checkpoint__raises_nothing_unexpected_for_any_damage(
    zipped: bool, tensors: StateDict, tmp_path: Path
) -> None:
    random = Random(0)
    buffer = io.BytesIO()
    torch.save(tensors, buffer, _use_new_zipfile_serialization=zipped)
    refused = 0
    for attempt in range(300):
        content = bytearray(buffer.getvalue() if attempt % 3 else random.randbytes(50))
        for _ in range(random.choice([1, 3, 10])):
            content[random.randrange(len(content))] = random.randrange(256)
        path = tmp_path / f"{attempt}.bin"
        path.write_bytes(content)
        try:
            read_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 -- some damage is to values alone and cannot be noticed
            refused += 1
    assert refused > 100


def test_read_checkpoint__names_a_file_with_the_wrong_ending(
    golden_dir: Path, write: Callable[[str, bytes], Path]
) -> None:
    path = write("pickled.safetensors", (golden_dir / "vqgan.bin").read_bytes())
    with pytest.raises(ValueError, match=r"is damaged.* not a safetensors file"):
        read_checkpoint(path)
    path = write("safe.bin", (golden_dir / "original-vq.safetensors").read_bytes())
    with pytest.raises(ValueError, match=DAMAGED):
        read_checkpoint(path)


def test_read_checkpoint__names_a_zip_that_is_no_checkpoint(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("readme.txt", "nothing")
    with pytest.raises(ValueError, match=DAMAGED):
        read_checkpoint(tmp_path / "x.bin")


def test_read_checkpoint__refuses_torchscript_without_torchs_warning(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is on its way out
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "x.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match="not a PyTorch checkpoint"):
            read_checkpoint(tmp_path / "x.pt")


def test_read_checkpoint__refuses_an_object_and_does_not_advise_to_load_it(
    tensors: StateDict, write: Callable[[str, bytes], Path]
) -> None:
    path = write("x.ckpt", pickled({"state_dict": tensors, "hyper_parameters": Plain()}))
    expected = rf"{re.escape(str(path))} .* {re.escape(Plain.__module__)}\.Plain"
    with pytest.raises(ValueError, match=expected) as caught:
        read_checkpoint(path)
    assert "weights_only" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("suffix", "kind", "message"),
    [
        (".bin", "saved", REFUSED),
        (".bin", "legacy", REFUSED),
        (".ckpt", "in a lightning checkpoint", REFUSED),
        (".bin", "bare pickle of protocol 2", REFUSED),
        (".bin", "bare pickle of protocol 4", DAMAGED),
        (".safetensors", "saved", "not a safetensors file"),
    ],
)
def test_read_checkpoint__executes_nothing(
    suffix: str,
    kind: str,
    message: str,
    tensors: StateDict,
    tmp_path: Path,
    write: Callable[[str, bytes], Path],
) -> None:
    marker = tmp_path / "ran"
    gadget: Any = Gadget(marker)
    pickle.loads(pickle.dumps(gadget))
    assert marker.exists()  # it does run where it is let
    marker.unlink()
    buffer = io.BytesIO()
    if kind.startswith("bare pickle"):
        buffer.write(pickle.dumps(gadget, protocol=int(kind[-1])))
    elif kind == "in a lightning checkpoint":
        torch.save({"state_dict": tensors, "callbacks": [gadget]}, buffer)
    else:
        torch.save(tensors | {"c": gadget}, buffer, _use_new_zipfile_serialization=kind == "saved")
    path = write(f"x{suffix}", buffer.getvalue())
    with pytest.raises(ValueError, match=message):
        read_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [{}, {"state_dict": {}, "epoch": 1}], ids=["bare", "lightning"])
def test_read_checkpoint__refuses_an_empty_dictionary(content: object, write: Callable[[str, bytes], Path]) -> None:
    path = write("x.bin", pickled(content))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is empty"):
        read_checkpoint(path)


def test_read_checkpoint__names_entries_that_are_no_tensors(
    tensors: StateDict, write: Callable[[str, bytes], Path]
) -> None:
    path = write("x.bin", pickled(tensors | {"step": 3, "names": ["a"]}))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} .*: step, names"):
        read_checkpoint(path)


@pytest.mark.parametrize(("content", "kind"), [([torch.zeros(1)], "list"), (torch.zeros(1), "Tensor")])
def test_read_checkpoint__says_what_it_found_instead_of_a_state_dict(
    content: object, kind: str, write: Callable[[str, bytes], Path]
) -> None:
    path = write("x.bin", pickled(content))
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} .* type {kind}"):
        read_checkpoint(path)


def test_read_checkpoint__passes_a_refused_permission_on(
    tensors: StateDict, write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write("x.bin", pickled(tensors))
    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(PermissionError, match="Permission denied"):
        read_checkpoint(path)


def test_read_checkpoint__refuses_a_zip_bomb(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(10**6))
    with pytest.raises(ValueError, match=r"x\.pt is not a PyTorch checkpoint: its part 'x/data\.pkl' is compressed"):
        read_checkpoint(tmp_path / "x.pt")


def test_read_checkpoint__refuses_a_pickle_that_asks_for_memory(write: Callable[[str, bytes], Path]) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
        archive.writestr("x/version", "3")
    with pytest.raises(ValueError, match=r"builtins bytearray"):
        read_checkpoint(write("x.pt", buffer.getvalue()))


def test_read_checkpoint__refuses_a_view_that_repeats_one_number(write: Callable[[str, bytes], Path]) -> None:
    path = write("x.pt", pickled({"a": torch.zeros(1).expand(10**6, 1000)}))
    with pytest.raises(ValueError, match=r"x\.pt is damaged: a of shape \(1000000, 1000\) is not in it"):
        read_checkpoint(path)


def test_read_checkpoint__refuses_many_tensors_of_one_storage(write: Callable[[str, bytes], Path]) -> None:
    tensor = torch.zeros(10_000)
    path = write("x.pt", pickled({str(index): tensor for index in range(100)}))
    with pytest.raises(ValueError, match=r"x\.pt has .* bytes, but its tensors have 4,000,000"):
        read_checkpoint(path)


def test_read_checkpoint__names_that_are_no_text_are_not_shown(write: Callable[[str, bytes], Path]) -> None:
    name: Any = ("a",)
    for _ in range(15):
        name = (name, name)  # its text has a hundred thousand letters
    with pytest.raises(ValueError, match="name is of type tuple") as caught:
        read_checkpoint(write("x.pt", pickled({name: torch.zeros(1)})))
    assert len(str(caught.value)) < 1000


def test_read_checkpoint__does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x.pt")
    with pytest.raises(ValueError, match="pipe"):
        read_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize("name", [b"\xff.safetensors", b"\xff.pt"])
def test_read_checkpoint__reads_a_file_whose_name_is_not_utf8(name: bytes, tensors: StateDict, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    save_file(tensors, plain) if name.endswith(b"safetensors") else torch.save(tensors, plain)
    path = plain.rename(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    assert_same(read_checkpoint(path), tensors)


class TestOwnFiles:
    @pytest.mark.parametrize("name", ["", "model", "checkpoints/step-00000002"])
    def test_folder_of_this_library__needs_no_conversion(self, tmp_path: Path, name: str) -> None:
        saved = tmp_path / "run" / (name or "model")
        saved.mkdir(parents=True)
        (saved / "config.json").write_text('{"model_type": "stellar"}')
        message = rf'needs no conversion.*from_pretrained\("{re.escape(str(saved))}"\)'
        with pytest.raises(ValueError, match=message):
            read_checkpoint(tmp_path / "run" / name)

    def test_folder_of_another_library__is_asked_for_its_file(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text('{"model_type": "vit"}')
        with pytest.raises(FileNotFoundError, match="pass the checkpoint file"):
            read_checkpoint(tmp_path)
