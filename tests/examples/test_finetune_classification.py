"""Fine-tuning a classifier: what each mode trains, what is saved and loads, what is refused."""

import copy
import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import peft
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from PIL import Image
from safetensors.torch import load_file
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from stellar_hub.modeling import StellarImageProcessor, StellarModel

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "finetune_classification.py"
COLORS = {"blue": (30, 40, 200), "green": (30, 180, 60), "red": (210, 40, 30)}
MODES = ["frozen", "full", "lora"]


def draw_squares(folder: Path, counts: dict[str, int]) -> Path:
    """A square of the class's colour somewhere on noise, 40 x 48 pixels, as many images of each class as said."""
    rng = np.random.default_rng(len(str(folder.name)))
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(90, 160, (40, 48, 3), dtype=np.uint8)
            top, left = rng.integers(0, 12, 2)
            pixels[top : top + 26, left : left + 32] = COLORS[name]
            Image.fromarray(pixels).save(folder / name / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Training and test folder; red is the majority of the training images, and 3 of 11 test images."""
    root = tmp_path_factory.mktemp("squares")
    train = draw_squares(root / "train", {"blue": 8, "green": 8, "red": 12})
    return train, draw_squares(root / "test", {"blue": 4, "green": 4, "red": 3})


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, shared_pixel_model: StellarModel) -> Path:
    """A saved tiny model, decoder included."""
    folder = tmp_path_factory.mktemp("model") / "tiny"
    copy.deepcopy(shared_pixel_model).save_pretrained(folder)
    return folder


def import_example(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module(name)


@pytest.fixture
def classifiers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return import_example("stellar_classifier", monkeypatch)


@pytest.fixture
def class_folders(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return import_example("class_folders", monkeypatch)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The script as a module; accelerate's state, which is one per process, is cleared before and afterwards."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield import_example("finetune_classification", monkeypatch)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def finetune(
    script: ModuleType, squares: tuple[Path, Path], model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """Runs the script on the squares; keywords replace options, and what it prints is returned."""

    def run(output: Path, *flags: str, **options: Any) -> str:
        defaults = {"train": squares[0], "test": squares[1], "model": model_folder, "output": output}
        defaults |= {"epochs": 1, "batch_size": 8, "num_workers": 0}
        pairs = [(f"--{name.replace('_', '-')}", str(value)) for name, value in (defaults | options).items()]
        script.main([*flags, *(word for pair in pairs for word in pair)])
        return capsys.readouterr().out

    return run


def num_right(printed: str) -> list[str]:
    """The last column of the table: the classifier's images, then the majority class's."""
    return re.findall(r"(\d+ of \d+)", printed)


def count_right(classifiers: ModuleType, folder: Path, test: Path) -> str:
    """The same for a saved classifier, image by image."""
    classifier, processor, classes = classifiers.load_classifier(folder)
    paths = sorted(test.rglob("*.png"))
    with torch.inference_mode():
        answers = [classes[int(classifier(processor(path)["pixel_values"]).argmax())] for path in paths]
    right = sum(answer == path.parent.name for answer, path in zip(answers, paths, strict=True))
    return f"{right} of {len(paths)}"


def encoder_weights(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in load_file(folder / "model.safetensors").items() if "decoder" not in name}


def test_full__learns_an_easy_set_and_saves_what_it_measured(
    finetune: Callable[..., str], classifiers: ModuleType, squares: tuple[Path, Path], tmp_path: Path
) -> None:
    printed = finetune(tmp_path / "out", mode="full", epochs=12, learning_rate=2e-3)
    right, majority = num_right(printed)
    assert int(right.split()[0]) >= 10  # chance is 4
    assert majority == "3 of 11"
    assert count_right(classifiers, tmp_path / "out", squares[1]) == right
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["blue", "green", "red"]
    model = StellarModel.from_pretrained(tmp_path / "out")
    assert model.decoder is None
    assert model.encode(torch.rand(2, 3, 32, 32)).semantics.shape == (2, 4, 48)
    assert "| test accuracy |" in (tmp_path / "out" / "README.md").read_text()


def test_frozen__leaves_the_encoder_bit_equal(finetune: Callable[..., str], model_folder: Path, tmp_path: Path) -> None:
    finetune(tmp_path / "out", mode="frozen", epochs=2)
    before, after = encoder_weights(model_folder), encoder_weights(tmp_path / "out")
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_lora__changes_the_attention_alone(finetune: Callable[..., str], model_folder: Path, tmp_path: Path) -> None:
    finetune(tmp_path / "out", mode="lora", epochs=2)
    before, after = encoder_weights(model_folder), encoder_weights(tmp_path / "out")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"encoder.blocks.{i}.attn.{layer}.weight" for i in (0, 1) for layer in ("qkv", "proj")}


@pytest.mark.parametrize("mode", MODES)
def test_same_seed__gives_the_same_weights(finetune: Callable[..., str], mode: str, tmp_path: Path) -> None:
    for name in ("one", "two"):
        finetune(tmp_path / name, mode=mode, seed=3)
    for file in ("model.safetensors", "head.safetensors"):
        torch.testing.assert_close(load_file(tmp_path / "one" / file), load_file(tmp_path / "two" / file))


@pytest.mark.parametrize("mode", MODES)
def test_every_trainable_parameter__gets_a_gradient(
    classifiers: ModuleType, model_folder: Path, images: Tensor, mode: str
) -> None:
    # What DDP needs without `find_unused_parameters`.
    model = StellarModel.from_pretrained(model_folder, decoder=False)
    classifier = classifiers.build_classifier(model, 3, mode, lora_rank=2).train()
    classifier(images).logsumexp(dim=1).sum().backward()
    trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in classifier.named_parameters() if parameter.grad is not None}
    assert not any("localization" in name for name in trained)
    assert model.training == (mode != "frozen")


def randomized_lora(classifiers: ModuleType, model_folder: Path) -> Any:
    """A classifier whose low-rank updates, which start at zero, are not."""
    torch.manual_seed(0)
    model = StellarModel.from_pretrained(model_folder, decoder=False)
    classifier = classifiers.build_classifier(model, 3, "lora", lora_rank=2).eval()
    for name, parameter in classifier.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return classifier


def test_lora__trains_few_parameters(classifiers: ModuleType, model_folder: Path) -> None:
    classifier = randomized_lora(classifiers, model_folder)
    counts = {
        trained: sum(p.numel() for p in classifier.model.parameters() if p.requires_grad == trained)
        for trained in (True, False)
    }
    assert counts[True] == 2 * 2 * ((48 + 3 * 48) + (48 + 48))  # blocks, rank, both sides of qkv and of proj
    assert counts[True] < 0.02 * counts[False]


def test_lora__merged_model_gives_the_logits_of_before(
    classifiers: ModuleType, model_folder: Path, images: Tensor, tmp_path: Path
) -> None:
    classifier = randomized_lora(classifiers, model_folder)
    plain = StellarModel.from_pretrained(model_folder)
    with torch.inference_mode():
        logits = classifier(images)
        assert not torch.allclose(classifier.head(plain(images).pooler_output), logits, atol=1e-2)
        processor = StellarImageProcessor.from_pretrained(model_folder)
        classifiers.save_classifier(classifier, processor, ["a", "b", "c"], 0.5, tmp_path / "out")
        loaded, _, classes = classifiers.load_classifier(tmp_path / "out")
        torch.testing.assert_close(loaded(images), logits, rtol=1e-4, atol=1e-4)
    assert classes == ["a", "b", "c"]


def test_lora__adapter_alone_saves_and_loads_with_peft(
    classifiers: ModuleType, model_folder: Path, images: Tensor, tmp_path: Path
) -> None:
    adapted = randomized_lora(classifiers, model_folder).model
    adapted.save_pretrained(tmp_path)
    loaded = peft.PeftModel.from_pretrained(StellarModel.from_pretrained(model_folder, decoder=False), tmp_path).eval()
    with torch.inference_mode():
        expected = adapted(images).pooler_output
        torch.testing.assert_close(loaded(images).pooler_output, expected, rtol=1e-6, atol=1e-6)


def test_layer_decay__slows_the_first_layers_most(classifiers: ModuleType, model_folder: Path) -> None:
    model = StellarModel.from_pretrained(model_folder, decoder=False)
    classifier = classifiers.build_classifier(model, 3, "full", lora_rank=2)
    optimizer = create_optimizer_v2(classifier, opt="adamw", lr=1e-3, weight_decay=0.05, layer_decay=0.5)
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    groups = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    blocks = [f"model.encoder.blocks.{index}.attn.qkv.weight" for index in (0, 1)]
    scales = [groups[name]["lr_scale"] for name in ("model.encoder.sparse_tokens", *blocks, "head.linear.weight")]
    assert scales == [0.125, 0.25, 0.5, 1.0]
    assert groups["model.encoder.norm.weight"]["lr_scale"] == 0.5
    assert groups["model.encoder.sparse_tokens"]["weight_decay"] == 0
    assert groups["head.linear.weight"]["weight_decay"] == 0.05


@pytest.mark.parametrize(("options", "steps"), [({}, 4), ({"layer_decay": 0.75, "epochs": 2}, 8)])
def test_schedule__warms_up_and_comes_down(
    finetune: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    options: dict[str, Any],
    steps: int,
) -> None:
    rates = []
    step = torch.optim.AdamW.step

    def record(self: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        rates.append(max(group["lr"] for group in self.param_groups))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", record)
    finetune(tmp_path / "out", learning_rate=1e-3, **options)
    assert len(rates) == steps
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 0.2e-3


def test_augmented_images__are_random_crops_of_the_models_size(
    class_folders: ModuleType, squares: tuple[Path, Path], model_folder: Path
) -> None:
    processor = StellarImageProcessor.from_pretrained(model_folder)
    images = class_folders.augmented_images(class_folders.ClassFolders.read(squares[0]), processor)
    first, label = images[27]
    assert (first.shape, first.dtype, label) == ((3, 32, 32), torch.uint8, 2)
    assert not torch.equal(first, images[27][0])


def test_prepared_images__are_the_processors(
    class_folders: ModuleType, squares: tuple[Path, Path], model_folder: Path
) -> None:
    processor = StellarImageProcessor.from_pretrained(model_folder)
    folders = class_folders.ClassFolders.read(squares[1])
    image, label = class_folders.prepared_images(folders, processor)[0]
    torch.testing.assert_close(image, processor(folders.paths[0])["pixel_values"][0], rtol=0, atol=0)
    assert label == 0


def test_images_that_cannot_be_read__are_left_out_and_counted(finetune: Callable[..., str], tmp_path: Path) -> None:
    train = draw_squares(tmp_path / "train", {"blue": 8, "red": 8})
    test = draw_squares(tmp_path / "test", {"blue": 3, "red": 3})
    for folder in (train, test):
        (folder / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    printed = finetune(tmp_path / "out", train=train, test=test)
    assert [line.split(" of ")[1] for line in num_right(printed)] == ["6", "6"]
    assert "1 of the images in" in printed
    assert torch.isfinite(load_file(tmp_path / "out" / "head.safetensors")["linear.weight"]).all()


@pytest.mark.parametrize("kind", ["augmented_images", "prepared_images"])
def test_image_that_cannot_be_read__is_named_and_black(
    class_folders: ModuleType, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    folder = draw_squares(tmp_path / "train", {"blue": 1, "red": 1})
    (folder / "blue" / "empty\x1b[31m.jpg").write_bytes(b"")
    read = class_folders.ClassFolders.read(folder)
    images = getattr(class_folders, kind)(read, StellarImageProcessor.from_pretrained(model_folder))
    good, bad = images[0], images[1]
    assert bad[1] == -1
    assert (bad[0].shape, bad[0].dtype) == (good[0].shape, good[0].dtype)
    assert not bad[0].any()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("left out ")
    assert line.isprintable()


def test_batch_without_a_readable_image__has_no_loss(script: ModuleType) -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = script.mean_loss(logits, torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_class_folders__finds_images_at_any_depth_and_skips_hidden_ones(
    class_folders: ModuleType, tmp_path: Path
) -> None:
    folder = draw_squares(tmp_path / "train", {"blue": 1, "red": 1})
    (folder / ".cache").mkdir()
    (folder / "red" / "more").mkdir()
    (folder / "red" / "notes.txt").write_text("no image")
    (folder / "red" / "._0.png").write_bytes(b"no image either")
    (folder / "red" / "0.png").rename(folder / "red" / "more" / "0.PNG")
    read = class_folders.ClassFolders.read(folder)
    assert read.paths == [folder / "blue" / "0.png", folder / "red" / "more" / "0.PNG"]
    assert (read.labels, read.classes) == ([0, 1], ["blue", "red"])


def test_classes_missing_from_the_test_folder__keep_the_labels(class_folders: ModuleType, tmp_path: Path) -> None:
    folder = draw_squares(tmp_path / "test", {"red": 2})
    read = class_folders.ClassFolders.read(folder, ["blue", "green", "red"])
    assert read.labels == [2, 2]


def only_folders(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "none", "none"),
        (lambda folder: folder, "has no class folders"),
        (lambda folder: only_folders(folder, "cats", "dogs"), "no images in .*jpg"),
        (
            lambda folder: only_folders(draw_squares(folder, {"red": 1, "blue": 1}), "cats", "dogs"),
            "cats, dogs",
        ),
        (lambda folder: draw_squares(folder, {"red": 2}), "at least two classes, got 'red'"),
    ],
)
def test_training_folder__that_cannot_be_used_is_refused(
    finetune: Callable[..., str], tmp_path: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        finetune(tmp_path / "out", train=make(only_folders(tmp_path, "data") / "data"))
    assert not (tmp_path / "out").exists()


def test_test_classes_unseen_in_training__are_refused(
    finetune: Callable[..., str], squares: tuple[Path, Path], tmp_path: Path
) -> None:
    train = draw_squares(tmp_path / "train", {"red": 1, "blue": 1})
    with pytest.raises(SystemExit, match=r"green; .* blue, red"):
        finetune(tmp_path / "out", train=train)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs .* 1, got 0"),
        ({"num_workers": -1}, "--num-workers .* 0, got -1"),
        ({"learning_rate": 0}, r"--learning-rate .* 0, got 0\.0"),
        ({"mode": "full", "layer_decay": 1.5}, r"--layer-decay .*\(0, 1\], got 1\.5"),
        ({"mode": "lora", "layer_decay": 0.7}, "--layer-decay .*--mode lora"),
    ],
)
def test_options__out_of_range_are_refused(
    finetune: Callable[..., str], tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(SystemExit, match=message):
        finetune(tmp_path / "out", **options)


def test_workers__are_called_num_workers(
    finetune: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        finetune(tmp_path / "out", workers=4)
    assert "--num-workers" in capsys.readouterr().err.splitlines()[-1]


def test_missing_peft__says_how_to_install_it(
    finetune: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(SystemExit, match=r"--mode lora .*stellar_hub\[peft\]"):
        finetune(tmp_path / "out", mode="lora")


def test_batch__that_does_not_split_evenly_is_refused(
    finetune: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Accelerator, "num_processes", 3)
    with pytest.raises(SystemExit, match=r"--batch-size .* 3 processes, got 8"):
        finetune(tmp_path / "out")


def test_output__is_replaced_only_when_asked(finetune: Callable[..., str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    finetune(output, mode="frozen")  # empty: nothing is lost
    (output / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit, match=r"out .*--overwrite"):
        finetune(output, mode="frozen")
    head = (output / "head.safetensors").read_bytes()
    finetune(output, "--overwrite", mode="frozen", seed=1)
    assert (output / "head.safetensors").read_bytes() != head
    assert (output / "notes.txt").read_text() == "mine"
    with pytest.raises(SystemExit, match=r"notes\.txt is a file"):
        finetune(output / "notes.txt")


def test_interrupted_saving__leaves_nothing(
    finetune: Callable[..., str], classifiers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(classifiers, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        finetune(tmp_path / "out", mode="frozen")
    assert list(tmp_path.iterdir()) == []


def test_loss_that_is_not_finite__ends_the_run(finetune: Callable[..., str], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"nan at step \d+: lower --learning-rate"):
        finetune(tmp_path / "out", mode="full", learning_rate=1e30)
    assert not (tmp_path / "out").exists()


def run_script(
    launcher: list[str], squares: tuple[Path, Path], model_folder: Path, output: Path, mode: str
) -> tuple[str, str]:
    """What the script writes to standard output and to standard error, run by a launcher on the CPU."""
    options = ["--train", *squares[:1], "--test", *squares[1:], "--model", model_folder, "--output", output]
    options += ["--mode", mode, "--epochs", "2", "--batch-size", "8", "--num-workers", "1", "--learning-rate", "2e-3"]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, str(SCRIPT), *map(str, options)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=300)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout, finished.stderr


@pytest.mark.slow
def test_two_processes__count_each_test_image_once(
    classifiers: ModuleType, squares: tuple[Path, Path], model_folder: Path, tmp_path: Path
) -> None:
    # 11 test images and batches of 8 for 2 processes: the last batch does not split evenly.
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    printed, _ = run_script(launcher, squares, model_folder, tmp_path / "out", "full")
    assert num_right(printed) == [count_right(classifiers, tmp_path / "out", squares[1]), "3 of 11"]
    assert printed.count("wrote") == 1


@pytest.mark.slow
def test_accelerate_launch__runs_the_script(squares: tuple[Path, Path], model_folder: Path, tmp_path: Path) -> None:
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1"]
    printed, progress = run_script(launcher, squares, model_folder, tmp_path / "out", "frozen")
    assert f"loading {model_folder}" in progress
    assert num_right(printed)[1] == "3 of 11"
    assert (tmp_path / "out" / "classes.json").exists()
