"""What a run leaves as it goes, and how it stops."""

import contextlib
import io
import math
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from stellar_hub.training import loop as module
from stellar_hub.training.loop import Stopped, due
from stellar_hub.training.monitoring.journal import read_journal
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.step import TERMS, Stepper, StepResult
from stellar_hub.training.stopping import SIGNALS, NonFiniteLossError
from stellar_hub.training.train import train
from tests.stellar_hub.training.conftest import changed, draw_images, journal_of, recipe_for

METERS = {"assignment_entropy", "token_cosine", "effective_rank", "localization_entropy", "agreement"}
FACTS = {"learning_rate", "gradient_norm", "images_per_second", "data_wait_share", "memory_gb"}


@dataclass
class Finished:
    """A run of five steps, and what it said and exported meanwhile."""

    output: Path
    said: str
    exported: list[object]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """One for all tests here, not to be changed."""
    base = tmp_path_factory.mktemp("finished")
    recipe = recipe_for(draw_images(base / "images"), "steps=5", "preview_every=2", "export_every=3")
    said, exported, export_model = io.StringIO(), [], module.export_model

    def record(output: Path, model: Any, recipe: Recipe, facts: dict[str, object], image: bytes) -> Path:
        exported.append(facts["steps"])
        return export_model(output, model, recipe, facts, image)

    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(said):
        patch.setattr(module, "export_model", record)
        train(recipe, base / "run", cpu=True)
    return Finished(base / "run", said.getvalue(), exported)


def patch_step(monkeypatch: pytest.MonkeyPatch, act: Callable[[Stepper, int], None]) -> None:
    """Have something done before each step, counted from 0."""
    step = Stepper.step

    def patched(self: Stepper, number: int, batches: list[dict[str, Any]]) -> StepResult:
        act(self, number)
        return step(self, number, batches)

    monkeypatch.setattr(Stepper, "step", patched)


class TestJournal:
    def test_lines__are_of_the_first_step_every_second_and_the_last(self, finished: Finished) -> None:
        assert [record["step"] for record in journal_of(finished.output)] == [1, 2, 4, 5]

    def test_lines__have_all_terms_meters_and_facts(self, finished: Finished) -> None:
        for record in journal_of(finished.output):
            assert set(record) == {"step", *TERMS, *METERS, *FACTS}
            assert all(math.isfinite(value) for value in record.values())
            weighted = 10 * record["reconstruction_loss"] + sum(record[name] for name in TERMS[2:])
            assert record["loss"] == pytest.approx(weighted, rel=1e-5)
            assert 0 <= record["data_wait_share"] <= 1
            assert record["images_per_second"] > 0

    def test_learning_rate__is_that_of_the_schedule(self, finished: Finished) -> None:
        rates = [record["learning_rate"] for record in journal_of(finished.output)]
        expected = [1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 5)) / 2 for step in (0, 1, 3, 4)]
        assert rates == pytest.approx(expected)

    def test_terms_that_are_switched_off__are_left_out(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        off = ("mask_ratio=null", "koleo_weight=0", "reconstruction_weight=0", "use_local_views=false")
        train(changed(tiny_recipe, "steps=1", *off, "use_cls_head=false"), tmp_path / "run", cpu=True)
        (record,) = journal_of(tmp_path / "run")
        assert set(record) & set(TERMS) == {"loss", "clustering_loss"}
        assert "agreement" not in record


class TestWhatIsLeft:
    def test_images__come_every_so_many_steps(self, finished: Finished) -> None:
        images = sorted((finished.output / "previews").iterdir())
        assert [path.name for path in images] == ["step-000002.png", "step-000004.png"]
        assert Image.open(images[0]).convert("RGB").size[0] > 500

    def test_checkpoints__are_the_newest_and_the_last_step(self, finished: Finished) -> None:
        names = sorted(path.name for path in (finished.output / "checkpoints").iterdir())
        assert names == ["step-000004", "step-000005"]

    def test_exports__come_every_so_many_steps_and_once_at_the_end(self, finished: Finished) -> None:
        assert finished.exported == ["3 of 5", "5 of 5"]

    def test_folder__has_nothing_else(self, finished: Finished) -> None:
        names = {path.name for path in finished.output.iterdir()}
        assert names == {"checkpoints", "curves.png", "metrics.jsonl", "model", "previews", "recipe.yaml"}

    def test_terminal__shows_the_start_and_the_lines_of_the_journal(self, finished: Finished) -> None:
        said = finished.said.splitlines()
        assert said[0].startswith("from step 0 to 5: 6 images")
        assert [line.split(",")[0] for line in said if line.startswith("step ")] == [
            f"step {step}/5" for step in (1, 2, 4, 5)
        ]

    def test_last_checkpoint__is_what_is_exported(self, finished: Finished) -> None:
        exported = load_file(finished.output / "model" / "model.safetensors")
        kept = load_file(finished.output / "checkpoints" / "step-000005" / "model.safetensors")
        for name, tensor in exported.items():
            torch.testing.assert_close(tensor, kept[f"stellar.{name}"], rtol=0, atol=0, msg=name)

    def test_images_and_exports__change_nothing_of_the_training(
        self, finished: Finished, image_folder: Path, tmp_path: Path
    ) -> None:
        train(recipe_for(image_folder, "steps=5", "save_every=9", "log_every=9"), tmp_path / "run", cpu=True)
        for name in ("model/model.safetensors", "checkpoints/step-000005/model.safetensors"):
            torch.testing.assert_close(load_file(tmp_path / "run" / name), load_file(finished.output / name))


class TestNotFinite:
    def test_nan__stops_the_run_and_names_images_and_the_last_good_checkpoint(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def spoil(stepper: Stepper, step: int) -> None:
            if step == 2:
                with torch.no_grad():
                    stepper.bare.stellar.encoder.cls_token.fill_(math.nan)

        patch_step(monkeypatch, spoil)
        with pytest.raises(NonFiniteLossError, match=r"not finite at step 3 \(loss nan") as caught:
            train(changed(tiny_recipe, "export_every=3", "save_every=2"), tmp_path / "run", cpu=True)
        checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
        assert f"the last good checkpoint is {checkpoint}" in str(caught.value)
        assert str(caught.value).count("image-") == 4
        assert [path.name for path in checkpoint.parent.iterdir()] == ["step-000002"]
        assert all(tensor.isfinite().all() for tensor in load_file(checkpoint / "model.safetensors").values())
        assert not (tmp_path / "run" / "model").exists()  # step 3 was to be exported

    def test_nan_of_the_last_step__is_seen_too(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def spoil(stepper: Stepper, step: int) -> None:
            if step == 3:
                with torch.no_grad():
                    stepper.bare.stellar.encoder.cls_token.fill_(math.nan)

        patch_step(monkeypatch, spoil)
        with pytest.raises(NonFiniteLossError, match="at step 4"):
            train(tiny_recipe, tmp_path / "run", cpu=True)
        assert math.isnan(read_journal(tmp_path / "run" / "metrics.jsonl")[-1]["loss"])

    def test_far_too_high_learning_rate__leaves_no_checkpoint_that_is_not_finite(
        self, tiny_recipe: Recipe, tmp_path: Path
    ) -> None:
        recipe = changed(tiny_recipe, "learning_rate=1e30", "clip_norm=null", "save_every=1")
        with pytest.raises(NonFiniteLossError, match="Lower the learning rate"):
            train(recipe, tmp_path / "run", cpu=True)
        for file in (tmp_path / "run" / "checkpoints").glob("*/model.safetensors"):
            assert all(tensor.isfinite().all() for tensor in load_file(file).values())


class TestStop:
    @pytest.mark.parametrize("number", SIGNALS)
    def test_signal__finishes_the_step_and_saves(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
    ) -> None:
        before = {other: signal.getsignal(other) for other in SIGNALS}

        def send(stepper: Stepper, step: int) -> None:
            if step == 2:
                os.kill(os.getpid(), number)

        patch_step(monkeypatch, send)
        with pytest.raises(Stopped, match=r"stopped at step 3, checkpoint saved; --resume auto goes on") as caught:
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

        def send(stepper: Stepper, step: int) -> None:
            if step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        monkeypatch.setattr(module, "write_run", record)
        patch_step(monkeypatch, send)
        with pytest.raises(Stopped, match="step 2"):
            train(tiny_recipe, tmp_path / "run", cpu=True)
        assert len(written) == 1

    def test_stopped_run__goes_on_to_the_same_weights(
        self, finished: Finished, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = recipe_for(image_folder, "steps=5", "save_every=9")

        def send(stepper: Stepper, step: int) -> None:
            if step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch_step(patch, send)
            with pytest.raises(Stopped):
                train(recipe, tmp_path / "run", cpu=True)
        train(recipe, tmp_path / "run", resume="auto", cpu=True)
        name = "checkpoints/step-000005/model.safetensors"
        resumed, expected = load_file(tmp_path / "run" / name), load_file(finished.output / name)
        torch.testing.assert_close(resumed, expected, rtol=0, atol=0)
        assert [record["step"] for record in journal_of(tmp_path / "run")] == [1, 2, 4, 5]


class TestSkippedImages:
    def test_damaged_images__are_named_and_counted_once_and_the_run_goes_on(
        self, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (image_folder / "damaged-a.png").write_bytes(b"no image")
        (image_folder / "damaged-b.jpg").write_bytes(b"")
        folder = train(recipe_for(image_folder, "steps=8"), tmp_path / "run", cpu=True)
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("skipped image")]
        assert [line.split(":")[0] for line in lines] == ["skipped image 1", "skipped image 2"]
        for name in ("damaged-a.png", "damaged-b.jpg"):
            assert sum(str(image_folder / name) in line for line in lines) == 1
        assert "| images that could not be read | 2 |" in (folder / "README.md").read_text()

    def test_damaged_images__are_remembered_by_a_resumed_run(
        self, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (image_folder / "damaged.png").write_bytes(b"no image")
        train(recipe_for(image_folder, "steps=8"), tmp_path / "run", cpu=True)
        again = train(recipe_for(image_folder, "steps=8"), tmp_path / "run", resume="auto", cpu=True)
        assert capsys.readouterr().err.count("skipped image") == 1
        assert "| images that could not be read | 1 |" in (again / "README.md").read_text()


@pytest.mark.parametrize(("done", "expected"), [(1, True), (2, False), (3, True), (6, True), (7, False), (8, True)])
def test_due__first_last_and_every_so_many(done: int, expected: bool) -> None:
    assert due(done, every=3, total=8) is expected
