"""What may be written into a run's folder, and where a run goes on."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stellar_hub.modeling import StellarConfig
from stellar_hub.old_names import old_names
from stellar_hub.training.checkpoints import run_folder as module
from stellar_hub.training.checkpoints.checkpoints import STATE_FILE, Checkpoints
from stellar_hub.training.checkpoints.run_folder import (
    RECIPE_FILE,
    check_same_run,
    check_space,
    find_start,
    later_fields,
    recipe_of_run,
)
from stellar_hub.training.recipes.files import save_recipe
from stellar_hub.training.recipes.sections import Recipe
from tests.stellar_hub.training.conftest import changed, recipe_for

FACTS = {"fingerprint": "abc", "num_images": 6}
CONFIG = {"hidden_size": 48, "tokenizer_channel_mult": [1, 2], "mask_ratio": None}


def run_at(output: Path, *steps: int) -> Checkpoints:
    """A folder that looks like a run's."""
    output.mkdir()
    save_recipe(recipe_for(Path("images")), output / RECIPE_FILE)
    checkpoints = Checkpoints(output / "checkpoints", keep=9)
    for step in steps:
        state = json.dumps({"step": step, "config": CONFIG, **FACTS})
        checkpoints.save(step, lambda folder, text=state: (folder / STATE_FILE).write_text(text))
    return checkpoints


class TestFindStart:
    def test_new_folder__begins(self, tmp_path: Path) -> None:
        checkpoints = Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
        assert find_start(tmp_path / "run", None, checkpoints)[0] is None
        assert find_start(tmp_path / "run", "auto", checkpoints)[0] is None
        assert not (tmp_path / "run").exists()

    def test_folder_with_other_files__begins(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").touch()
        assert find_start(tmp_path, None, Checkpoints(tmp_path / "checkpoints", keep=1))[0] is None

    @pytest.mark.parametrize("steps", [(), (2, 4)])
    def test_folder_with_a_run__is_refused_and_says_how_to_go_on(self, tmp_path: Path, steps: tuple[int, ...]) -> None:
        checkpoints = run_at(tmp_path / "run", *steps)
        with pytest.raises(FileExistsError, match=rf"{tmp_path / 'run'} .*--resume auto.*--output"):
            find_start(tmp_path / "run", None, checkpoints)

    def test_folder_with_checkpoints_alone__is_refused(self, tmp_path: Path) -> None:
        checkpoints = run_at(tmp_path / "run", 2)
        (tmp_path / "run" / RECIPE_FILE).unlink()
        with pytest.raises(FileExistsError, match="a run"):
            find_start(tmp_path / "run", None, checkpoints)

    @pytest.mark.parametrize("resume", [None, "auto"])
    def test_file__is_refused(self, tmp_path: Path, resume: str | None) -> None:
        (tmp_path / "run").write_text("")
        with pytest.raises(FileExistsError, match=rf"--output {tmp_path / 'run'} is a file"):
            find_start(tmp_path / "run", resume, Checkpoints(tmp_path / "run" / "checkpoints", keep=1))

    def test_auto__takes_the_newest(self, tmp_path: Path) -> None:
        checkpoints = run_at(tmp_path / "run", 2, 4)
        assert find_start(tmp_path / "run", "auto", checkpoints)[0] == checkpoints.path(4)

    def test_auto__falls_back_from_a_damaged_one_and_says_so(self, tmp_path: Path) -> None:
        checkpoints = run_at(tmp_path / "run", 2, 4)
        (checkpoints.path(4) / STATE_FILE).write_text("{}")
        start, (note,) = find_start(tmp_path / "run", "auto", checkpoints)
        assert start == checkpoints.path(2)
        assert "step-000002" in note
        assert str(checkpoints.path(4) / STATE_FILE) in note

    def test_path__of_a_damaged_one_is_refused(self, tmp_path: Path) -> None:
        checkpoints = run_at(tmp_path / "run", 2, 4)
        with open(checkpoints.path(4) / STATE_FILE, "a") as file:
            file.write("\n")
        with pytest.raises(ValueError, match=str(checkpoints.path(4) / STATE_FILE)):
            find_start(tmp_path / "run", checkpoints.path(4), checkpoints)

    def test_run_whose_checkpoints_lack_their_state__is_not_written_over(self, tmp_path: Path) -> None:
        checkpoints = run_at(tmp_path / "run", 2)
        (checkpoints.path(2) / STATE_FILE).unlink()
        (tmp_path / "run" / RECIPE_FILE).unlink()
        with pytest.raises(FileExistsError, match="holds a run"):
            find_start(tmp_path / "run", None, checkpoints)

    def test_auto__begins_anew_where_there_is_no_checkpoint_yet(self, tmp_path: Path) -> None:
        assert find_start(tmp_path / "run", "auto", run_at(tmp_path / "run"))[0] is None

    def test_path__may_be_an_earlier_checkpoint(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoints = run_at(tmp_path / "run", 2, 4)
        assert find_start(tmp_path / "run", checkpoints.path(2), checkpoints)[0] == checkpoints.path(2)
        monkeypatch.chdir(tmp_path)
        relative = Path("run/checkpoints/step-000002")
        assert find_start(tmp_path / "run", relative, checkpoints)[0] == relative

    def test_path__may_be_of_another_run_for_a_new_folder(self, tmp_path: Path) -> None:
        other = run_at(tmp_path / "other", 2)
        own = Checkpoints(tmp_path / "run" / "checkpoints", keep=1)
        assert find_start(tmp_path / "run", other.path(2), own)[0] == other.path(2)

    def test_path_of_another_run__is_refused_where_there_is_one(self, tmp_path: Path) -> None:
        other, own = run_at(tmp_path / "other", 2), run_at(tmp_path / "run", 2)
        with pytest.raises(FileExistsError, match="another run"):
            find_start(tmp_path / "run", other.path(2), own)

    @pytest.mark.parametrize("name", ["nowhere", "run", "run/checkpoints"])
    def test_path__that_is_not_a_checkpoint_is_named(self, tmp_path: Path, name: str) -> None:
        checkpoints = run_at(tmp_path / "run", 2)
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path / name} is not a checkpoint"):
            find_start(tmp_path / "run", tmp_path / name, checkpoints)


class TestRecipeOfRun:
    def test_recipe__is_the_runs_own(self, tmp_path: Path) -> None:
        run_at(tmp_path / "run")
        assert recipe_of_run(tmp_path / "run") == recipe_for(Path("images"))

    def test_folder_without_a_run__is_named(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path} .*recipe\.yaml.*--recipe"):
            recipe_of_run(tmp_path)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A checkpoint of the tiny recipe."""
    return run_at(tmp_path / "run", 2).path(2)


@pytest.fixture
def recipe() -> Recipe:
    """The recipe of its run."""
    return recipe_for(Path("images"))


class TestCheckSameRun:
    def test_same_run__passes(self, checkpoint: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
        # JSON has turned the tuple into a list; and transformers may be a newer one.
        check_same_run(checkpoint, recipe, FACTS, CONFIG | {"tokenizer_channel_mult": (1, 2)})
        check_same_run(checkpoint, recipe, FACTS, CONFIG | {"transformers_version": "99.0"})
        monkeypatch.chdir(checkpoint)
        check_same_run(Path(), recipe, FACTS, CONFIG)

    def test_what_may_change__may(self, checkpoint: Path, recipe: Recipe) -> None:
        other = changed(recipe, "log_every=7", "keep_checkpoints=5", "data.sources=[moved]", "num_workers=2")
        check_same_run(checkpoint, other, FACTS, CONFIG)

    def test_run_of_an_earlier_release__is_the_same(self, checkpoint: Path, recipe: Recipe) -> None:
        for kind, path in (
            ("recipe_keys", checkpoint.parents[1] / RECIPE_FILE),
            ("run_state", checkpoint / STATE_FILE),
        ):
            ((old, new),) = old_names(kind).items()
            path.write_text(path.read_text().replace(new.rpartition(".")[2], old.rpartition(".")[2]))
        with pytest.warns(FutureWarning, match=r"run\.preview_every"):
            check_same_run(checkpoint, recipe, FACTS, CONFIG)

    def test_run_from_before_sop__is_the_same(self, checkpoint: Path, recipe: Recipe) -> None:
        new = {name: value for name, value in StellarConfig().to_dict().items() if name in later_fields()}
        assert {"token_objective", "sop_memory_size", "baseline_loss"} <= new.keys()
        resolved = recipe.with_values("model", config=recipe.model.config | new)
        check_same_run(checkpoint, resolved, FACTS, CONFIG | new)

    @pytest.mark.parametrize(
        ("overrides", "difference"),
        [
            (("token_objective=sop", "teacher_momentum=0.9"), 'token_objective: "prototypes" in the run, "sop" now'),
            (("baseline_loss=swav",), 'baseline_loss: null in the run, "swav" now'),
        ],
    )
    def test_other_objective__is_named(
        self, checkpoint: Path, recipe: Recipe, overrides: tuple[str, ...], difference: str
    ) -> None:
        with pytest.raises(ValueError, match=difference):
            check_same_run(checkpoint, changed(recipe, *overrides), FACTS, CONFIG)

    def test_other_recipe__is_named_value_by_value(self, checkpoint: Path, recipe: Recipe) -> None:
        other = changed(recipe, "learning_rate=2e-3", "seed=3")
        with pytest.raises(ValueError, match="another recipe") as caught:
            check_same_run(checkpoint, other, FACTS, CONFIG)
        assert "optimization.learning_rate: 0.001 in the run, 0.002 now" in str(caught.value)
        assert "run.seed: 0 in the run, 3 now" in str(caught.value)

    def test_other_data_and_model__are_named_value_by_value(self, checkpoint: Path, recipe: Recipe) -> None:
        facts, config = FACTS | {"fingerprint": "xyz", "num_images": 7}, CONFIG | {"hidden_size": 96}
        with pytest.raises(ValueError, match=rf"^{checkpoint} cannot be resumed") as caught:
            check_same_run(checkpoint, recipe, facts, config)
        assert str(caught.value).splitlines()[1:-1] == [
            "  images: 6 of images in the run, 7 of images now",
            "  model: hidden_size: 48 in the run, 96 now",
        ]
        assert "another --output" in str(caught.value)

    def test_state_that_lacks_something__differs(self, checkpoint: Path, recipe: Recipe) -> None:
        (checkpoint / STATE_FILE).write_text('{"step": 2}')
        message = r"images: a stream of .* in the run, 6 of (.|\n)*hidden_size: not set in the run"
        with pytest.raises(ValueError, match=message):
            check_same_run(checkpoint, recipe, FACTS, CONFIG)

    def test_checkpoint_without_its_run__is_compared_as_far_as_it_goes(
        self, checkpoint: Path, recipe: Recipe, tmp_path: Path
    ) -> None:
        alone = checkpoint.rename(tmp_path / "alone")
        check_same_run(alone, changed(recipe, "seed=3"), FACTS, CONFIG)
        with pytest.raises(ValueError, match="hidden_size"):
            check_same_run(alone, recipe, FACTS, CONFIG | {"hidden_size": 96})


@pytest.mark.parametrize("name", [".", "new", "new/run"])
def test_space__is_that_of_the_disk_the_folder_will_be_on(tmp_path: Path, name: str) -> None:
    assert check_space(tmp_path / name, 1) is None
    found = check_space(tmp_path / name, 10**18)
    assert found is not None
    assert "1000000000.0 GB" in found


def test_space__is_said_in_gigabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage: Callable[[Any], Any] = lambda path: SimpleNamespace(free=2_000_000_000)  # noqa: E731
    monkeypatch.setattr(module.shutil, "disk_usage", usage)
    assert check_space(tmp_path, 2_000_000_000) is None
    found = check_space(tmp_path, 3_000_000_000) or ""
    assert all(part in found for part in (str(tmp_path), "2.0 GB", "3.0 GB"))
