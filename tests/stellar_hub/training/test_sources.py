"""Training from every kind of source: the same run wherever the same images come from."""

import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from stellar_hub.training.checkpoints.checkpoints import Checkpoints
from stellar_hub.training.recipes.files import save_recipe
from stellar_hub.training.train import train
from tests.stellar_hub.data.sources.conftest import write_tar
from tests.stellar_hub.training.conftest import draw_images, recipe_for
from tests.training_processes import Training, different, final_weights, images_read, measured


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, one of them damaged, in a folder, a list and two unequal tars; and a run over the folder."""
    base = tmp_path_factory.mktemp("sources")
    images = draw_images(base / "images", 6)
    (images / "image-1.png").write_bytes(b"damaged")
    files = sorted(images.iterdir())
    (base / "list.txt").write_text("".join(f"images/{file.name}\n" for file in files))
    for shard, part in enumerate((files[:4], files[4:])):
        write_tar(base / f"shard-{shard}.tar", {file.name: file.read_bytes() for file in part})
    train(recipe_for(images, "steps=6"), base / "run", cpu=True)
    return base


@pytest.mark.parametrize("name", ["list.txt", "shard-{0..1}.tar"])
@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_run__has_the_same_weights_bit_for_bit(
    base: Path, tmp_path: Path, name: str, num_workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_for(base / name, "steps=6", f"num_workers={num_workers}")
    model = train(recipe, tmp_path / "run", cpu=True)
    expected = load_file(base / "run" / "model" / "model.safetensors")
    torch.testing.assert_close(load_file(model / "model.safetensors"), expected, rtol=0, atol=0)
    skipped = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped image 1: ")]
    assert len(skipped) == 1
    assert "image-1.png" in skipped[0]


def test_tar_that_is_cut_short__is_named_at_the_start(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tar = tmp_path / "short.tar"
    whole = (base / "shard-0.tar").read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    train(recipe_for(tar, "steps=1"), tmp_path / "run", cpu=True)
    assert f"note: images may be missing: {tar}: " in capsys.readouterr().err


def test_resume__of_tars_that_changed_is_refused(base: Path, tmp_path: Path) -> None:
    files = sorted((base / "images").iterdir())
    tar = write_tar(tmp_path / "a.tar", {file.name: file.read_bytes() for file in files})
    recipe = recipe_for(tar, "steps=4")
    train(recipe, tmp_path / "run", cpu=True)
    write_tar(tar, {file.name: file.read_bytes() for file in files[1:]})
    with pytest.raises(ValueError, match=r"images: 6 of .*a\.tar in the run, 5 of .*a\.tar now"):
        train(recipe, tmp_path / "run", resume="auto", cpu=True)


@pytest.mark.slow
def test_two_processes_killed_over_tars__go_on_to_the_same_bits(tmp_path: Path) -> None:
    images = draw_images(tmp_path / "images", 10)
    (images / "image-2.png").write_bytes(b"damaged")
    files = sorted(images.iterdir())
    for shard, part in enumerate((files[:7], files[7:])):  # of neither do two processes get the same number
        write_tar(tmp_path / f"shard-{shard}.tar", {file.name: file.read_bytes() for file in part})
    steps, options = 10, ("optimization.steps=10", "run.log_every=1", "run.save_every=2")
    save_recipe(recipe_for(tmp_path / "shard-{0..1}.tar", *options), tmp_path / "recipe.yaml")
    undisturbed, output = tmp_path / "undisturbed", tmp_path / "run"
    with Training(undisturbed, "--recipe", tmp_path / "recipe.yaml", num_processes=2) as training:
        assert training.wait() == [0, 0], training.log()
    workers = ("--set", "data.num_workers=1")
    with Training(output, "--recipe", tmp_path / "recipe.yaml", *workers, num_processes=2) as training:
        training.wait_for_step(4)
        assert training.kill() == [-signal.SIGKILL] * 2, training.log()
    assert 2 <= Checkpoints(output / "checkpoints", keep=2).steps()[-1] < steps
    with Training(output, "--resume", "auto", num_processes=2) as training:
        assert training.wait() == [0, 0], training.log()
        assert training.survivors() == []
    assert different(final_weights(output), final_weights(undisturbed)) == []
    assert [record["step"] for record in measured(output)] == list(range(1, steps + 1))
    assert measured(output) == measured(undisturbed)
    read = [images_read(output, rank) for rank in (0, 1)]
    assert read == [images_read(undisturbed, rank) for rank in (0, 1)]
    stream = [name for step in range(steps) for names in read for name in names[step]]
    for epoch in (stream[start : start + len(files)] for start in range(0, len(stream), len(files))):
        assert len(epoch) == len(files)
        assert set(epoch) == {file.name for file in files} - {"image-2.png"}  # another is read in its place
    assert "| images that could not be read | 1 |" in (output / "model" / "README.md").read_text()
