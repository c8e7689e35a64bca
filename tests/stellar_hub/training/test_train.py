"""Whole runs: what they write, what ends them early, what is refused before the first step."""

import errno
import math
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stellar_hub.data.sources import ImageFolder
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.modeling.card_sections import read_section
from stellar_hub.training import train as module
from stellar_hub.training.checkpoints import run_state
from stellar_hub.training.checkpoints.run_folder import PREVIEWS_FOLDER
from stellar_hub.training.exports import without_paths
from stellar_hub.training.monitoring.journal import read_journal
from stellar_hub.training.recipes.files import load_recipe, write_yaml
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.step import Stepper, StepResult
from stellar_hub.training.stopping import SIGNALS, NonFiniteLossError
from stellar_hub.training.train import Stopped, is_due, train
from tests.hub_server import HubServer
from tests.stellar_hub.training.conftest import (
    Finished,
    assert_same_weights,
    changed,
    draw_images,
    journal_of,
    recipe_for,
    weights_of,
)

# The terms of STELLAR without a weight of their own in the sum; other objectives have others.
TERMS = ("koleo_loss", "clustering_loss", "cls_clustering_loss", "mask_loss", "cls_loss")
METERS = {"assignment_entropy", "token_cosine", "effective_rank", "localization_entropy", "agreement"}
FACTS = {"learning_rate", "gradient_norm", "images_per_second", "data_wait_share", "memory_gb"}


def patch_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[Stepper, int], None]) -> None:
    """Have something done before each step, counted from 0."""
    step = Stepper.step

    def patched(self: Stepper, number: int, batches: list[dict[str, Any]]) -> StepResult:
        act(self, number)
        return step(self, number, batches)

    monkeypatch.setattr(Stepper, "step", patched)


def send_signal(monkeypatch: pytest.MonkeyPatch, step: int, number: int = signal.SIGTERM) -> None:
    """Have this process get a signal before a step, counted from 0."""
    patch_step(monkeypatch, lambda stepper, now: os.kill(os.getpid(), number) if now == step else None)


def spoil_weights(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the weights be NaN from a step on, counted from 0."""

    def spoil(stepper: Stepper, now: int) -> None:
        if now == step:
            with torch.no_grad():
                stepper.model.stellar.encoder.cls_token.fill_(math.nan)

    patch_step(monkeypatch, spoil)


class TestJournal:
    def test_lines__are_those_of_the_first_step_every_second_and_the_last(self, finished: Finished) -> None:
        records = journal_of(finished.output)
        assert [record["step"] for record in records] == [1, 2, 4]
        for record in records:
            assert set(record) == {"step", "loss", "reconstruction_loss", *TERMS, *METERS, *FACTS}
            assert all(math.isfinite(value) for value in record.values())
            weighted = 10 * record["reconstruction_loss"] + sum(record[name] for name in TERMS)
            assert record["loss"] == pytest.approx(weighted, rel=1e-5)
            assert 0 <= record["data_wait_share"] <= 1
            assert record["images_per_second"] > 0

    def test_learning_rate__is_that_of_the_schedule(self, finished: Finished) -> None:
        rates = [record["learning_rate"] for record in journal_of(finished.output)]
        expected = [1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 4)) / 2 for step in (0, 1, 3)]
        assert rates == pytest.approx(expected)

    def test_terms_that_are_switched_off__are_left_out(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        off = ("mask_ratio=null", "koleo_weight=0", "reconstruction_weight=0", "use_local_views=false")
        train(changed(tiny_recipe, "steps=1", *off, "use_cls_head=false"), tmp_path / "run", cpu=True)
        (record,) = journal_of(tmp_path / "run")
        assert set(record) & {"loss", *TERMS} == {"loss", "clustering_loss"}
        assert "agreement" not in record

    @pytest.mark.parametrize(("done", "expected"), [(1, True), (2, False), (3, True), (7, False), (8, True)])
    def test_due__is_the_first_the_last_and_every_third(self, done: int, expected: bool) -> None:
        assert is_due(done, every=3, total=8) is expected


class TestFolder:
    def test_folder__has_these_files_and_no_others(self, finished: Finished) -> None:
        names = {path.name for path in finished.output.iterdir()}
        assert names == {".lock", "checkpoints", "curves.png", "metrics.jsonl", "model", PREVIEWS_FOLDER, "recipe.yaml"}
        assert (finished.output / "recipe.yaml").stat().st_mode & 0o777 == 0o600
        previews = sorted((finished.output / PREVIEWS_FOLDER).iterdir())
        assert [path.name for path in previews] == ["step-000002.png", "step-000004.png"]
        assert Image.open(previews[0]).convert("RGB").size[0] > 500
        checkpoints = sorted(path.name for path in (finished.output / "checkpoints").iterdir())
        assert checkpoints == ["step-000002", "step-000004"]

    def test_stderr__has_the_start_and_the_lines_of_the_journal(self, finished: Finished) -> None:
        lines = finished.stderr.splitlines()
        assert lines[0].startswith("from step 0 to 4: 6 images")
        steps = [line.split(",")[0] for line in lines if line.startswith("step ")]
        assert steps == [f"step {step}/4" for step in (1, 2, 4)]

    def test_model__is_that_of_the_last_checkpoint_and_encodes(self, finished: Finished) -> None:
        folder, kept = finished.output / "model", weights_of(finished.output)
        for name, tensor in load_file(folder / "model.safetensors").items():
            torch.testing.assert_close(tensor, kept[f"stellar.{name}"], rtol=0, atol=0, msg=name)
        model, processor = StellarModel.from_pretrained(folder), StellarImageProcessor.from_pretrained(folder)
        image = Path(finished.recipe.data.sources[0]) / "image-0.png"
        encoding = model.encode(processor(image, return_tensors="pt")["pixel_values"])
        assert encoding.semantics.shape == (1, 4, 48)

    def test_card__has_recipe_numbers_and_images(self, finished: Finished) -> None:
        section = read_section((finished.output / "model" / "README.md").read_text(), "training")
        assert section is not None
        assert "| steps | 4 of 4 |" in section
        assert "| images seen | 16 |" in section
        assert write_yaml(without_paths(load_recipe(finished.output / "recipe.yaml"))).strip() in section
        for name in ("curves.png", "reconstructions.png"):
            assert f"({name})" in section
            assert (finished.output / "model" / name).read_bytes().startswith(b"\x89PNG")

    def test_exports__come_every_so_many_steps_and_at_the_end(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        exported: list[object] = []
        monkeypatch.setattr(module, "export_model", lambda *arguments: exported.append(arguments[3]["steps"]))
        train(changed(tiny_recipe, "export_every=3"), tmp_path / "run", cpu=True)
        assert exported == ["3 of 4", "4 of 4"]


class TestData:
    @pytest.mark.parametrize(
        ("overrides", "error", "message"),
        [
            (("data.sources=[FOLDER/empty]",), ValueError, "FOLDER/empty"),
            (("data.sources=[FOLDER/nowhere]",), FileNotFoundError, "FOLDER/nowhere"),
            (("data.sources=[FOLDER/damaged]",), ValueError, r"none of 2 images .*FOLDER/damaged/a\.png"),
            (("local_size=20",), ValueError, r"data\.local_size .*16 or 24; got 20"),
            (("teacher_momentum=0.9", "num_global_views=1"), ValueError, "num_global_views .* got 1"),
            (("init=null",), ValueError, "--init"),
            (("init=nowhere",), ValueError, "nowhere"),
        ],
    )
    def test_refused_run__says_why_and_leaves_nothing_behind(
        self, tiny_recipe: Recipe, tmp_path: Path, overrides: tuple[str, ...], error: type[Exception], message: str
    ) -> None:
        for folder, names in (("empty", ()), ("damaged", ("a.png", "b.jpg"))):
            (tmp_path / folder).mkdir()
            for name in names:
                (tmp_path / folder / name).write_bytes(b"no image")
        recipe = changed(tiny_recipe, *(override.replace("FOLDER", str(tmp_path)) for override in overrides))
        with pytest.raises(error, match=message.replace("FOLDER", str(tmp_path))):
            train(recipe, tmp_path / "run", cpu=True)
        assert not (tmp_path / "run").exists()

    def test_output_that_is_a_file__is_refused(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        (tmp_path / "run").write_text("mine")
        with pytest.raises(FileExistsError, match=str(tmp_path / "run")):
            train(tiny_recipe, tmp_path / "run", cpu=True)
        assert (tmp_path / "run").read_text() == "mine"

    @pytest.mark.parametrize(
        ("num_images", "overrides"),
        [
            (1, ("batch_size=1", "teacher_momentum=0.9")),
            (1, ("num_global_views=1", "num_local_views=0")),
            (6, ("num_sparse_tokens=1", "koleo_weight=0", "steps=null", "epochs=1", "batch_size=3")),
        ],
    )
    def test_little_data__is_enough(self, tmp_path: Path, num_images: int, overrides: tuple[str, ...]) -> None:
        recipe = recipe_for(draw_images(tmp_path / "images", num_images), "steps=2", *overrides)
        train(recipe, tmp_path / "run", cpu=True)
        assert [record["step"] for record in journal_of(tmp_path / "run")] == [1, 2]

    def test_damaged_images__are_named_and_counted_once_by_resumed_runs_too(
        self, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (image_folder / "damaged-a.png").write_bytes(b"no image")
        (image_folder / "damaged-b.jpg").write_bytes(b"")
        for resume in (None, "auto"):
            recipe = recipe_for(image_folder, "steps=4", "batch_size=8")
            folder = train(recipe, tmp_path / "run", resume=resume, cpu=True)
            assert "| images that could not be read | 2 |" in (folder / "README.md").read_text()
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped image")]
        assert [line.split(":")[0] for line in lines] == ["skipped image 1", "skipped image 2"]
        for name in ("damaged-a.png", "damaged-b.jpg"):
            assert sum(str(image_folder / name) in line for line in lines) == 1

    def test_table_with_a_row_that_has_no_image__costs_that_row(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        image_of = ImageFolder._image

        def image_or_error(self: ImageFolder, index: int) -> Path:
            if index == 0:
                raise FileNotFoundError("row 0 names \x1b[31mnothing")
            return image_of(self, index)

        monkeypatch.setattr(ImageFolder, "_image", image_or_error)
        folder = train(tiny_recipe, tmp_path / "run", cpu=True)
        assert "| images that could not be read | 1 |" in (folder / "README.md").read_text()
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped image")]
        assert line.isprintable()

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (MemoryError(), "the memory is used up"),
            (RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes\nframe #1"), "the memory is used up"),
            (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "the GPU's memory is used up"),
        ],
    )
    def test_memory_that_is_used_up__is_one_sentence_with_what_to_lower(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
    ) -> None:
        def fail(stepper: Stepper, now: int) -> None:
            if now == 2:
                raise error

        patch_step(monkeypatch, fail)
        with pytest.raises(RuntimeError, match=rf"^{said}.*batch_size.*step-000002$"):
            train(tiny_recipe, tmp_path / "run", cpu=True)

    def test_memory_that_is_used_up_as_the_run_begins__is_one_sentence_too(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

        monkeypatch.setattr("stellar_hub.training.run.choose_step", fail)
        with pytest.raises(RuntimeError, match=r"^the GPU's memory is used up.*there is no checkpoint$"):
            train(tiny_recipe, tmp_path / "run", cpu=True)


class TestNotFinite:
    def test_nan__stops_the_run_and_names_images_and_the_last_good_checkpoint(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spoil_weights(monkeypatch, 2)
        checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
        with pytest.raises(NonFiniteLossError, match=rf"step 3 \(loss nan.*{checkpoint}") as caught:
            train(changed(tiny_recipe, "export_every=3"), tmp_path / "run", cpu=True)
        assert str(caught.value).count("image-") == 4
        assert [path.name for path in checkpoint.parent.iterdir()] == ["step-000002"]
        assert all(tensor.isfinite().all() for tensor in load_file(checkpoint / "model.safetensors").values())
        assert not (tmp_path / "run" / "model").exists()  # step 3 was to be exported

    def test_nan_of_the_last_step__is_seen_too(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        spoil_weights(monkeypatch, 1)
        with pytest.raises(NonFiniteLossError, match="at step 2"):
            train(changed(tiny_recipe, "steps=2"), tmp_path / "run", cpu=True)
        assert math.isnan(read_journal(tmp_path / "run" / "metrics.jsonl")[-1]["loss"])

    def test_far_too_high_learning_rate__leaves_no_checkpoint_that_is_not_finite(
        self, tiny_recipe: Recipe, tmp_path: Path
    ) -> None:
        recipe = changed(tiny_recipe, "learning_rate=1e30", "clip_norm=null", "save_every=1")
        with pytest.raises(NonFiniteLossError):
            train(recipe, tmp_path / "run", cpu=True)
        for file in (tmp_path / "run" / "checkpoints").glob("*/model.safetensors"):
            assert all(tensor.isfinite().all() for tensor in load_file(file).values())


class TestStop:
    @pytest.mark.parametrize("number", SIGNALS)
    def test_signal__finishes_the_step_and_saves(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        before = {other: signal.getsignal(other) for other in SIGNALS}
        send_signal(monkeypatch, 2, number)
        with pytest.raises(Stopped, match="step 3") as caught:
            train(tiny_recipe, tmp_path / "run", cpu=True)
        assert caught.value.signal_number == number
        assert {other: signal.getsignal(other) for other in SIGNALS} == before
        names = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
        assert names == ["step-000002", "step-000003"]
        assert not (tmp_path / "run" / "model").exists()

    def test_signal__at_a_step_that_is_saved_anyway_saves_once(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[Path] = []
        write_run = module.write_run

        def record(folder: Path, *arguments: Any) -> None:
            written.append(folder)
            write_run(folder, *arguments)

        monkeypatch.setattr(module, "write_run", record)
        send_signal(monkeypatch, 1)
        with pytest.raises(Stopped, match="step 2"):
            train(tiny_recipe, tmp_path / "run", cpu=True)
        assert len(written) == 1

    def test_stopped_run__continues_to_the_same_weights(
        self, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = changed(finished.recipe, "save_every=9")
        with monkeypatch.context() as patch:
            send_signal(patch, 1)
            with pytest.raises(Stopped):
                train(recipe, tmp_path / "run", cpu=True)
        train(recipe, tmp_path / "run", resume="auto", cpu=True)
        assert_same_weights(tmp_path / "run", finished.output)
        assert [record["step"] for record in journal_of(tmp_path / "run")] == [1, 2, 4]

    def test_full_disk__leaves_a_checkpoint_that_can_be_resumed(
        self, finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        save_file, saved = run_state.save_file, []

        def save(tensors: Any, path: Path, **options: Any) -> None:
            saved.append(path)
            if len(saved) == 2:
                path.write_bytes(b"half")
                raise OSError(errno.ENOSPC, "No space left on device")
            save_file(tensors, path, **options)

        checkpoints = tmp_path / "run" / "checkpoints"
        with monkeypatch.context() as patch:
            patch.setattr(run_state, "save_file", save)
            with pytest.raises(OSError, match=rf"step 4 .*{checkpoints}: .*No space left"):
                train(finished.recipe, tmp_path / "run", cpu=True)
        assert [path.name for path in checkpoints.iterdir()] == ["step-000002"]
        train(finished.recipe, tmp_path / "run", resume="auto", cpu=True)
        assert_same_weights(tmp_path / "run", finished.output)


class TestOptions:
    def final(self, recipe: Recipe, tmp_path: Path, *overrides: str) -> dict[str, torch.Tensor]:
        train(changed(recipe, *overrides), tmp_path / "run", cpu=True)
        return weights_of(tmp_path / "run")

    def test_gradient_checkpointing__gives_the_same_weights(self, finished: Finished, tmp_path: Path) -> None:
        found = self.final(finished.recipe, tmp_path, "gradient_checkpointing=true")
        torch.testing.assert_close(found, weights_of(finished.output), rtol=1e-4, atol=1e-5)

    @pytest.mark.slow
    @pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("cc") is None, reason="no C compiler")
    def test_compile__gives_the_same_weights(self, finished: Finished, tmp_path: Path) -> None:
        found = self.final(finished.recipe, tmp_path, "run.compile=true")
        torch.testing.assert_close(found, weights_of(finished.output), rtol=1e-3, atol=2e-3)

    def test_accumulation__is_one_step_of_several_batches(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        recipe = changed(tiny_recipe, "batch_size=2", "gradient_accumulation_steps=2", "epochs=1")
        folder = train(recipe, tmp_path / "run", cpu=True)
        assert journal_of(tmp_path / "run")[-1]["step"] == 2  # 6 images, 4 a step
        assert "| images seen | 8 |" in (folder / "README.md").read_text()

    @pytest.mark.parametrize("precision", ["bf16", "fp64"])
    def test_precisions__follow_each_other_in_one_process(
        self, finished: Finished, tmp_path: Path, precision: str
    ) -> None:
        train(changed(finished.recipe, "steps=1", f"precision={precision}"), tmp_path / "run", cpu=True)
        expected = journal_of(finished.output)[0]["loss"]
        assert journal_of(tmp_path / "run")[0]["loss"] == pytest.approx(expected, rel=0.05)

    def test_push__follows_the_training_with_license_and_card(
        self, tiny_recipe: Recipe, tmp_path: Path, hub: HubServer, client: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_writer")
        pushed = changed(tiny_recipe, "steps=1", "run.push_to_hub=user/mine", "run.license=cc-by-nc-4.0")
        folder = train(pushed, tmp_path / "run", cpu=True)
        files = hub.files("user/mine")
        card = files["README.md"].decode()
        assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
        assert read_section(card, "training") == read_section((folder / "README.md").read_text(), "training")
        assert {"curves.png", "reconstructions.png", "model.safetensors"} < set(files)
