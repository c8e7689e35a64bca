"""A second run of a command goes on where the first one ended."""

import os
from pathlib import Path

import pytest
from PIL import Image

from stellar_hub.cli.earlier_runs import is_recorded, png_with_record, read_record
from stellar_hub.modeling import StellarModel

from .conftest import Command

SUFFIXES = {"encode": ".safetensors", "reconstruct": ".png", "visualize": ".png"}


@pytest.mark.parametrize(
    ("name", "done"), [("encode", "encoded"), ("reconstruct", "reconstructed"), ("visualize", "drawn")]
)
def test_second_run__does_what_is_left(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, name: str, done: str
) -> None:
    arguments = [name, image_folder, "-o", tmp_path / "out", "-m", model_folder]
    assert command(*arguments).exit_code == 0
    tall, wide = tmp_path / "out" / "below" / f"tall{SUFFIXES[name]}", tmp_path / "out" / f"wide{SUFFIXES[name]}"
    tall.unlink()
    written = wide.stat().st_mtime_ns
    result = command(*arguments)
    assert result.exit_code == 0, result.output
    assert f"1 of 2 images had been {done} before; --overwrite" in result.stderr
    assert [line.split(" ")[0] for line in result.stdout.splitlines()] == [str(image_folder / "below" / "tall.jpg")]
    assert wide.stat().st_mtime_ns == written
    assert tall.is_file()
    assert len(command(*arguments, "--overwrite").stdout.splitlines()) == 2


def test_interrupted_run__is_continued(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = StellarModel.encode, []

    def interrupted(model: StellarModel, *arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(model, *arguments, **options)

    monkeypatch.setattr(StellarModel, "encode", interrupted)
    arguments = ["encode", image_folder, "-o", tmp_path / "out", "-m", model_folder]
    first = command(*arguments)
    assert first.exit_code == 130
    assert first.stderr.splitlines()[-1] == "interrupted"
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.*")) == ["tall.safetensors"]
    second = command(*arguments)
    assert second.exit_code == 0
    assert "1 of 2 images had been encoded before" in second.stderr


def test_outputs_made_in_another_way__are_an_error(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path, build_model: object
) -> None:
    arguments = ["encode", image_folder / "wide.png", "-o", tmp_path / "out", "-m", model_folder]
    assert command(*arguments).exit_code == 0

    def refused(*more: object) -> str:
        result = command(*arguments, *more)
        assert result.exit_code == 1, result.output
        assert "--overwrite" in result.stderr
        return result.stderr

    another = "another --fit, --image-size, --num-tokens or image processor"
    assert f"{another} (shortest_edge 37, now 73" in refused("--image-size", 64)
    assert f"{another} (fit crop, now pad)" in refused("--fit", "pad")
    model = build_model(reconstruction_head="pixel", num_sparse_tokens=3)  # type: ignore[operator]
    model.save_pretrained(model_folder)
    assert "another model made it" in refused()


def test_exchanged_image__is_an_error(command: Command, model_folder: Path, image_folder: Path, tmp_path: Path) -> None:
    arguments = ["visualize", image_folder / "wide.png", "-o", tmp_path / "out", "-m", model_folder]
    assert command(*arguments).exit_code == 0
    os.utime(image_folder / "wide.png", (1, 1))
    result = command(*arguments)
    assert result.exit_code == 1
    assert "from another image, or the image has changed since" in result.stderr


def test_page_of_another_command__is_an_error(
    command: Command, model_folder: Path, image_folder: Path, tmp_path: Path
) -> None:
    arguments = [image_folder / "wide.png", "-o", tmp_path / "out", "-m", model_folder]
    assert command("reconstruct", *arguments).exit_code == 0
    result = command("visualize", *arguments)
    assert result.exit_code == 1
    assert "another command wrote it" in result.stderr


def test_record__is_read_from_nothing_else(tmp_path: Path) -> None:
    Image.new("RGB", (3, 3)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "text.safetensors").write_text("no tensors")
    partly = png_with_record(Image.new("RGB", (3, 3)), {"command": "encode", "other": "x"})
    (tmp_path / "partly.png").write_bytes(partly)
    assert [read_record(path) for path in sorted(tmp_path.iterdir())] == [{"command": "encode"}, {}, {}, {}]
    assert not any(is_recorded(path) for path in (*tmp_path.iterdir(), tmp_path / "gone.png", tmp_path))
