"""What the options of `stellar-hub train` amount to."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytest
import typer

from stellar_hub.training import command as module
from stellar_hub.training.checkpoints import STATE_FILE
from stellar_hub.training.command import chosen_recipe, train_by_options
from stellar_hub.training.loop import Stopped
from stellar_hub.training.recipe_file import load_recipe, save_recipe
from tests.stellar_hub.training.conftest import recipe_for

Calls = list[dict[str, Any]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What `train` is called with; nothing is trained."""
    recorded: Calls = []

    def record(recipe: object, output: Path, **options: Any) -> Path:
        recorded.append({"recipe": recipe, "output": output, **options})
        return output / "model"

    monkeypatch.setattr(module, "train", record)
    return recorded


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """What looks like a run's folder, with one checkpoint."""
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / STATE_FILE).write_text('{"step": 2}')
    save_recipe(recipe_for(Path("pictures")), tmp_path / "run" / "recipe.yaml")
    return tmp_path / "run"


def run(output: Path, **options: Any) -> Path | None:
    defaults: dict[str, Any] = {"data": [], "recipe_name": None, "init": None, "overrides": [], "resume": None}
    return train_by_options(output, **(defaults | {"cpu": True} | options))


class TestOptions:
    def test_options__change_the_named_recipe(self, calls: Calls, tmp_path: Path) -> None:
        folder = run(
            tmp_path / "run",
            data=["a", "b"],
            recipe_name="finetune",
            init="stellar-tiny",
            overrides=["batch_size=8"],
        )
        assert folder == tmp_path / "run" / "model"
        (call,) = calls
        assert call["recipe"].data.sources == ("a", "b")
        assert call["recipe"].model.init == "stellar-tiny"
        assert call["recipe"].optimization.batch_size == 8
        assert (call["output"], call["resume"], call["cpu"]) == (tmp_path / "run", None, True)

    def test_reference__is_the_batch_of_the_recipe_before_it_is_changed(self, calls: Calls, tmp_path: Path) -> None:
        run(tmp_path, data=["a"], recipe_name="b16", overrides=["batch_size=8"])
        assert calls[0]["reference_batch_size"] == load_recipe("b16").optimization.batch_size > 8

    def test_repeats__stay_where_there_are_as_many_folders(self, calls: Calls, tmp_path: Path) -> None:
        for folders in (["a", "b"], ["a"]):
            run(tmp_path, data=folders, recipe_name="stellar-tiny")
        assert [call["recipe"].data.repeats for call in calls] == [(1, 35), ()]

    def test_repeats__that_do_not_fit_are_left_out_with_a_note(
        self, calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        run(tmp_path, data=["a"], recipe_name="stellar-tiny")
        assert capsys.readouterr().err == "note: data.repeats [1, 35] is not for 1 sources: each comes once\n"

    def test_repeats__that_are_asked_for_must_fit(self, calls: Calls, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"data\.repeats must be empty or a number >= 1 for each of the 2 sources"):
            run(tmp_path, data=["a", "b"], recipe_name="finetune", overrides=["data.repeats=[1, 2, 3]"])
        assert calls == []

    def test_folder__is_named_by_the_first_process_only(
        self, calls: Calls, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RANK", "1")
        level = logging.getLogger("stellar_hub").level
        try:
            assert run(tmp_path, data=["a"], recipe_name="finetune") is None
        finally:
            logging.getLogger("stellar_hub").setLevel(level)
        assert len(calls) == 1

    def test_recipes_own_values__stay_without_options(self, calls: Calls, tmp_path: Path) -> None:
        recipe = recipe_for(Path("pictures"), "init=stellar-tiny", "model.config={}")
        save_recipe(recipe, tmp_path / "mine.yaml")
        run(tmp_path / "run", recipe_name=str(tmp_path / "mine.yaml"))
        assert calls[0]["recipe"] == recipe

    def test_pictures__are_asked_for(self, calls: Calls, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no pictures are given: pass --data FOLDER"):
            run(tmp_path, recipe_name="finetune")
        assert not calls

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_stopped_run__exits_as_if_by_the_signal(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
    ) -> None:
        def stop(*arguments: object, **options: object) -> None:
            raise Stopped(number, 7)

        monkeypatch.setattr(module, "train", stop)
        with pytest.raises(typer.Exit) as caught:
            run(tmp_path, data=["a"], recipe_name="finetune")
        assert caught.value.exit_code == 128 + number
        assert capsys.readouterr().err == "stopped at step 7, checkpoint saved; --resume auto goes on\n"


class TestChosenRecipe:
    def test_recipe__is_asked_for(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no recipe is given: pass --recipe, such as --recipe finetune"):
            chosen_recipe(tmp_path, None, [], None)

    def test_resumed_run__brings_its_own(self, run_folder: Path) -> None:
        expected = recipe_for(Path("pictures")), None
        assert chosen_recipe(run_folder, None, [], "auto") == expected

    def test_resumed_checkpoint__brings_its_runs(
        self, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        checkpoint = run_folder / "checkpoints" / "step-000002"
        expected = recipe_for(Path("pictures")), None
        assert chosen_recipe(tmp_path / "new", None, [], str(checkpoint)) == expected
        monkeypatch.chdir(checkpoint.parent)
        assert chosen_recipe(tmp_path / "new", None, [], "step-000002") == expected

    @pytest.mark.parametrize("resume", ["/", "/nowhere", "nowhere"])
    def test_resume__of_what_is_no_checkpoint_is_named(self, run_folder: Path, resume: str) -> None:
        with pytest.raises(FileNotFoundError, match=rf"^{resume} is no checkpoint of a run"):
            chosen_recipe(run_folder, None, [], resume)

    def test_resume__where_there_is_no_run_asks_for_a_recipe(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"holds no run to resume.*pass --recipe"):
            chosen_recipe(tmp_path, None, [], "auto")

    def test_settings__without_a_recipe_are_refused(self, run_folder: Path) -> None:
        with pytest.raises(ValueError, match="--set changes a recipe: pass --recipe too"):
            chosen_recipe(run_folder, None, ["batch_size=8"], "auto")
