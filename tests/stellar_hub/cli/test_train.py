"""`stellar-hub train`: from a folder of images to a model, and errors a user can act on."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from stellar_hub.cli.train import choose_recipe, with_sources
from stellar_hub.modeling import StellarImageProcessor, StellarModel
from stellar_hub.training import train as training
from stellar_hub.training.checkpoints.checkpoints import STATE_FILE
from stellar_hub.training.recipes.files import load_recipe, save_recipe
from stellar_hub.training.recipes.overrides import described_keys
from stellar_hub.training.train import Stopped
from tests.stellar_hub.training.conftest import draw_images, recipe_for

from .conftest import Command

Calls = list[dict[str, Any]]


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Six drawn images."""
    return draw_images(tmp_path / "images")


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    """The tiny recipe, without its images."""
    save_recipe(recipe_for(Path("images"), "data.sources=[]"), tmp_path / "tiny.yaml")
    return tmp_path / "tiny.yaml"


@pytest.fixture
def options(recipe_file: Path, image_folder: Path, tmp_path: Path) -> list[object]:
    """Options that train the tiny model."""
    return ["--recipe", recipe_file, "--data", image_folder, "--output", tmp_path / "run", "--cpu"]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """The arguments of each call of `train`, which does nothing."""
    recorded: Calls = []

    def record(recipe: object, output: Path, **options: Any) -> Path:
        recorded.append({"recipe": recipe, "output": output, **options})
        return output / "model"

    monkeypatch.setattr(training, "train", record)
    return recorded


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A folder that looks like that of a run, with one checkpoint."""
    checkpoint = tmp_path / "run" / "checkpoints" / "step-000002"
    checkpoint.mkdir(parents=True)
    (checkpoint / STATE_FILE).write_text('{"step": 2}')
    save_recipe(recipe_for(Path("images")), tmp_path / "run" / "recipe.yaml")
    return tmp_path / "run"


def error_of(result: Any, exit_code: int = 1) -> str:
    """The one line that a failed command writes last; 2 is the exit code of wrong usage."""
    assert result.exit_code == exit_code, result.output
    assert "Traceback" not in result.output
    last = result.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert sum(line.startswith("error") for line in result.stderr.splitlines()) == 1
    return last


@pytest.mark.slow
def test_finetune__makes_a_model_of_ones_own_images(command: Command, image_folder: Path, tmp_path: Path) -> None:
    settings = {
        "steps": 1,
        "batch_size": 4,
        "num_workers": 0,
        "num_global_views": 2,
        "num_local_views": 2,
        "model.config.num_prototypes": 32,
        "prototype_hidden_size": 64,
        "preview_every": 0,
    }
    changes = [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    begin = ["--recipe", "finetune", "--init", "stellar-tiny", "--output", tmp_path / "mine", "--cpu"]
    result = command("train", "--data", image_folder, *begin, *changes)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'mine'}: the model is in {tmp_path / 'mine' / 'model'}\n"
    assert "batch has 4 images" in result.stderr
    folder = tmp_path / "mine" / "model"
    model, processor = StellarModel.from_pretrained(folder), StellarImageProcessor.from_pretrained(folder)
    images = processor(image_folder / "image-0.png", return_tensors="pt")["pixel_values"]
    encoding = model.encode(images)
    assert encoding.semantics.shape == (1, 16, 192)
    assert model.decode(*encoding).shape == images.shape
    before = StellarModel.from_pretrained("stellar-tiny")
    difference = max(
        float((ours - theirs).abs().max()) for ours, theirs in zip(model.parameters(), before.parameters(), strict=True)
    )
    assert 0 < difference < 1e-3  # a step of at most the recipe's learning rate


def test_train__takes_several_folders(command: Command, options: list[object], tmp_path: Path) -> None:
    more = draw_images(tmp_path / "more", 2)
    result = command("train", *options, "--data", more, "--set", "steps=1")
    assert result.exit_code == 0, result.output
    assert "8 images" in result.stderr
    assert load_file(tmp_path / "run" / "model" / "model.safetensors")


def test_options__change_the_named_recipe(command: Command, calls: Calls, tmp_path: Path) -> None:
    settings = ["--init", "stellar-b16", "--set", "batch_size=8", "--output", tmp_path / "run"]
    result = command("train", "--data", "a", "--data", "b", "--recipe", "b16", *settings)
    assert result.stdout == f"{tmp_path / 'run'}: the model is in {tmp_path / 'run' / 'model'}\n"
    (call,) = calls
    assert call["recipe"].data.sources == ("a", "b")
    assert call["recipe"].model.init == "stellar-b16"
    assert call["recipe"].optimization.batch_size == 8
    assert call["reference_batch_size"] == load_recipe("b16").optimization.batch_size > 8
    assert (call["output"], call["resume"], call["cpu"]) == (tmp_path / "run", None, False)


def test_list_keys__has_each_key_that_set_takes(command: Command) -> None:
    result = command("train", "--list-keys")
    assert result.exit_code == 0
    keys = [line.split(": ")[0] for line in result.stdout.splitlines()]
    assert keys == list(described_keys())


def test_recipes_own_values__stay_without_options(command: Command, calls: Calls, tmp_path: Path) -> None:
    recipe = recipe_for(Path("images"), "init=stellar-tiny", "model.config={}")
    save_recipe(recipe, tmp_path / "mine.yaml")
    command("train", "--recipe", tmp_path / "mine.yaml", "--output", tmp_path / "run")
    assert calls[0]["recipe"] == recipe


def test_model__is_named_by_the_main_process_only(
    command: Command, calls: Calls, options: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    level = logging.getLogger("stellar_hub").level
    try:
        assert command("train", *options).output == ""
    finally:
        logging.getLogger("stellar_hub").setLevel(level)
    assert len(calls) == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped_run__exits_as_if_by_the_signal(
    command: Command, options: list[object], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise Stopped(number, 7)

    monkeypatch.setattr(training, "train", stop)
    result = command("train", *options)
    assert result.exit_code == 128 + number
    assert "stopped at step 7" in result.stderr.splitlines()[-1]


class TestRepeats:
    def test_repeats__stay_where_there_are_as_many_sources(self) -> None:
        recipe = load_recipe("stellar-tiny")
        assert with_sources(recipe, ["a", "b"], [])[0].data.repeats == (1, 35)
        fewer, note = with_sources(recipe, ["a"], [])
        assert (fewer.data.sources, fewer.data.repeats) == (("a",), ())
        assert note is None
        more, note = with_sources(recipe, ["a", "b", "c"], [])
        assert more.data.repeats == ()
        assert "2 numbers, but there are 3 sources" in str(note)

    def test_repeats__that_the_user_sets_must_fit(self) -> None:
        settings = ["data.repeats=[1, 2, 3]"]
        with pytest.raises(ValueError, match=r"^data\.repeats .* 2 sources"):
            with_sources(load_recipe("finetune", settings), ["a", "b"], settings)


class TestRecipe:
    def test_resumed_run__has_its_own(self, run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        checkpoint = run_folder / "checkpoints" / "step-000002"
        expected = recipe_for(Path("images")), None
        assert choose_recipe(run_folder, None, [], "auto") == expected
        assert choose_recipe(tmp_path / "new", None, [], str(checkpoint)) == expected
        monkeypatch.chdir(checkpoint.parent)
        assert choose_recipe(tmp_path / "new", None, [], "step-000002") == expected

    @pytest.mark.parametrize("resume", ["/", "/nowhere", "nowhere"])
    def test_resume__of_what_is_not_a_checkpoint_is_named(self, run_folder: Path, resume: str) -> None:
        with pytest.raises(FileNotFoundError, match=rf"^{resume} "):
            choose_recipe(run_folder, None, [], resume)

    @pytest.mark.parametrize("resume", ["auto", "CHECKPOINT"])
    def test_settings__change_the_recipe_of_a_resumed_run(self, run_folder: Path, resume: str) -> None:
        checkpoint = resume.replace("CHECKPOINT", str(run_folder / "checkpoints" / "step-000002"))
        recipe, _ = choose_recipe(run_folder, None, ["save_every=9", "data.num_workers=1"], checkpoint)
        expected = recipe_for(Path("images"), "save_every=9", "data.num_workers=1")
        assert recipe == expected

    def test_settings__that_change_the_result_of_a_run_are_refused(self, run_folder: Path) -> None:
        with pytest.raises(ValueError, match=r"optimization\.batch_size: \d+ in the run, 8 now"):
            choose_recipe(run_folder, None, ["batch_size=8"], "auto")


class TestRefused:
    """Each is one line that says what to do."""

    @pytest.mark.parametrize(
        ("arguments", "message", "exit_code"),
        [
            (["--recipe", "finetune", "--init", "stellar-tiny"], "pass --data", 2),
            (["--recipe", "finetune", "--data", "IMAGES"], "pass --init", 2),
            (["--data", "IMAGES"], "pass --recipe", 2),
            (["--recipe", "finetun", "--data", "IMAGES"], "'finetune'", 2),
            (["--recipe", "TINY", "--set", "learning_rat=1"], "learning_rat", 2),
            (["--recipe", "TINY", "--set", "learning_rate"], "section.key=value", 2),
            (["--recipe", "TINY", "--set", "batch_size=0"], "got 0", 2),
            (["--recipe", "TINY", "--set", "num_attention_heads=5"], "num_attention_heads 5", 2),
            (["--recipe", "TINY", "--set", "run.push_to_hub=a/b"], "run.license", 2),
            (["--recipe", "TINY", "--data", "nowhere"], "nowhere", 1),
            (["--recipe", "TINY", "--data", "EMPTY"], "EMPTY", 1),
            (["--recipe", "TINY", "--data", "IMAGES", "--set", "local_size=20"], "16 or 24", 2),
            (["--recipe", "TINY", "--data", "IMAGES", "--init", "nowhere"], "nowhere", 2),
            (["--recipe", "TINY", "--data", "IMAGES", "--resume", "nowhere"], "nowhere", 1),
            (["--recipe", "TINY", "--data", "IMAGES", "--init", "timm:vit_tinny"], "vit_tinny", 2),
            (["--recipe", "TINY", "--data", "IMAGES", "--init", "MODEL", "--set", "hidden_size=72"], "(1, 1, 72)", 2),
            (["--resume", "auto"], "--recipe", 1),
        ],
    )
    def test_wrong_options__are_said_in_one_line(
        self,
        command: Command,
        recipe_file: Path,
        model_folder: Path,
        image_folder: Path,
        tmp_path: Path,
        arguments: list[str],
        message: str,
        exit_code: int,
    ) -> None:
        (tmp_path / "EMPTY").mkdir()
        places = {"IMAGES": image_folder, "TINY": recipe_file, "EMPTY": tmp_path / "EMPTY", "MODEL": model_folder}
        words = [places.get(word, word) for word in arguments]
        found = error_of(command("train", *words, "--output", tmp_path / "run", "--cpu"), exit_code)
        assert message in found
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("arguments", [[], ["--recipe", "finetune", "--init", "stellar-tiny", "--data", "x"]])
    def test_folder_of_a_run__says_how_to_go_on(
        self, command: Command, run_folder: Path, calls: Calls, arguments: list[str]
    ) -> None:
        found = error_of(command("train", *arguments, "--output", run_folder))
        assert f"{run_folder} already holds a run; resume it with --resume auto" in found
        assert calls == []

    def test_nan__is_said_in_one_line(self, command: Command, options: list[object]) -> None:
        changes = ("--set", "learning_rate=1e30", "--set", "clip_norm=null")
        assert "not finite at step" in error_of(command("train", *options, *changes))

    def test_full_disk__is_said_in_one_line(
        self, command: Command, options: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: object, **options: object) -> None:
            raise OSError("no checkpoint of step 4 could be written")

        monkeypatch.setattr(training, "train", fail)
        assert "step 4" in error_of(command("train", *options))

    def test_missing_tracker__is_said_in_one_line(
        self, command: Command, options: list[object], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        assert "pip install wandb" in error_of(command("train", *options, "--set", "trackers=[wandb]"))

    def test_debug__shows_the_traceback(self, command: Command, tmp_path: Path) -> None:
        result = command("train", "--output", tmp_path / "run", "--debug")
        assert isinstance(result.exception, ValueError)
