"""Training a classifier: what each mode trains, what is saved, how a run is resumed, and what is refused."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from stellar_hub.data.labelled import LabelledImages, open_labelled
from stellar_hub.modeling import StellarForImageClassification, StellarImageProcessor, StellarModel
from stellar_hub.training.checkpoints.checkpoints import Checkpoints
from stellar_hub.training.checkpoints.run_folder import holds_run
from stellar_hub.training.finetuning import FinetuneReport, FinetuneSettings, finetune
from stellar_hub.training.finetuning.loop import mean_loss
from stellar_hub.training.finetuning.measuring import Answers
from stellar_hub.training.monitoring.journal import read_journal
from stellar_hub.training.stopping import NonFiniteLossError
from stellar_hub.training.train import Stopped
from tests.stellar_hub.training.finetuning.conftest import Train, draw_squares
from tests.training_processes import Training, different, final_weights, largest_difference

MODULE = "stellar_hub.training.finetuning.loop"
MODES = ["frozen", "full", "lora"]


def encoder_weights(folder: Path) -> dict[str, Tensor]:
    """The encoder of a saved model or classifier, by the names of a model."""
    tensors = load_file(folder / "model.safetensors")
    names = {name: name.removeprefix("stellar.") for name in tensors}
    return {short: tensors[name] for name, short in names.items() if not short.startswith(("decoder.", "classifier."))}


def count_right(folder: Path, test: Path) -> int:
    """The images that a saved classifier names correctly, one by one."""
    model = StellarForImageClassification.from_pretrained(folder)
    processor = StellarImageProcessor.from_pretrained(folder)
    right = 0
    for path in sorted(test.rglob("*.png")):
        with torch.inference_mode():
            logits = model(**processor(path, return_tensors="pt")).logits
        right += model.config.id2label[int(logits.argmax())] == path.parent.name
    return right


def test_full__learns_an_easy_set_and_saves_what_it_measured(
    finished: tuple[Path, FinetuneReport], squares: tuple[Path, Path]
) -> None:
    output, report = finished
    assert report.accuracy >= 10 / 11  # chance is 4 of 11
    assert report.majority_accuracy == pytest.approx(3 / 11)
    assert count_right(output / "model", squares[1]) == round(11 * report.accuracy)
    model = StellarForImageClassification.from_pretrained(output / "model")
    assert model.config.id2label == {0: "blue", 1: "green", 2: "red"}
    assert StellarModel.from_pretrained(output / "model").encode(torch.rand(2, 3, 32, 32)).semantics.shape == (2, 4, 48)


def test_run__leaves_journal_checkpoints_and_report(finished: tuple[Path, FinetuneReport]) -> None:
    output, report = finished
    names = {path.name for path in output.iterdir() if not path.name.startswith(".")}
    files = {"finetune.json", "metrics.jsonl", "report.json", "report.md", "confusion.png", "curves.png"}
    assert names >= files | {"checkpoints", "model"}
    records = read_journal(output / "metrics.jsonl")
    measured = [record["accuracy"] for record in records if "accuracy" in record]
    assert len(measured) == 12
    assert max(measured) == pytest.approx(report.accuracy)
    assert len(Checkpoints(output / "checkpoints", 2).steps()) == 2
    assert holds_run(output, Checkpoints(output / "checkpoints", 2))


def test_frozen__leaves_the_encoder_bit_equal(trained: Train, model_folder: Path, tmp_path: Path) -> None:
    trained(tmp_path / "run", mode="frozen")
    before, after = encoder_weights(model_folder), encoder_weights(tmp_path / "run" / "model")
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_lora__changes_the_attention_alone(trained: Train, model_folder: Path, tmp_path: Path) -> None:
    trained(tmp_path / "run", mode="lora")
    before, after = encoder_weights(model_folder), encoder_weights(tmp_path / "run" / "model")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"encoder.blocks.{i}.attn.{layer}.weight" for i in (0, 1) for layer in ("qkv", "proj")}


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the next run receive SIGTERM in a step."""
    steps = iter(range(1, 1000))
    with_signal = lambda accelerator, number: signal.SIGTERM if next(steps) == step else None  # noqa: E731
    monkeypatch.setattr(f"{MODULE}.agree_on_signal", with_signal)


@pytest.mark.parametrize("mode", MODES)
def test_stopped_run__resumes_to_the_same_weights(
    trained: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mode: str
) -> None:
    options: dict[str, Any] = {"mode": mode, "epochs": 2, "seed": 3, "dropout": 0.2, "log_every": 1}
    expected = trained(tmp_path / "whole", **options)
    stop_after(5, monkeypatch)
    with pytest.raises(Stopped, match="step 5"):
        trained(tmp_path / "stopped", **options)
    monkeypatch.undo()
    found = trained(tmp_path / "stopped", resume="auto", **options)
    assert different(final_weights(tmp_path / "stopped"), final_weights(tmp_path / "whole")) == []
    assert (found.accuracy, found.kept_step) == (expected.accuracy, expected.kept_step)
    steps = [record["step"] for record in read_journal(tmp_path / "stopped" / "metrics.jsonl")]
    assert steps == list(range(1, 8))


def test_finished_run__is_measured_again(trained: Train, tmp_path: Path) -> None:
    first = trained(tmp_path / "run", mode="frozen")
    (tmp_path / "run" / "report.json").unlink()
    again = trained(tmp_path / "run", resume="auto", mode="frozen", num_workers=0, log_every=2)
    assert again.accuracy == first.accuracy
    assert (tmp_path / "run" / "report.json").exists()


def test_folder_with_a_run__is_not_begun_again(trained: Train, tmp_path: Path, labelled_train: LabelledImages) -> None:
    trained(tmp_path / "run", mode="frozen")
    with pytest.raises(FileExistsError, match="--resume auto"):
        trained(tmp_path / "run", mode="frozen")
    with pytest.raises(ValueError, match=r"seed: 0 in the run, 1 now") as caught:
        trained(tmp_path / "run", resume="auto", mode="frozen", seed=1)
    assert "batch_size" not in str(caught.value)


def test_other_images__are_not_resumed_with(
    trained: Train, settings_of: Callable[..., FinetuneSettings], tmp_path: Path, labelled_test: LabelledImages
) -> None:
    trained(tmp_path / "run", mode="frozen")
    with pytest.raises(ValueError, match="train: "):
        finetune(labelled_test, labelled_test, settings_of(mode="frozen"), tmp_path / "run", resume="auto", cpu=True)


def test_images_that_cannot_be_read__are_left_out_and_counted(
    settings_of: Callable[..., FinetuneSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = draw_squares(tmp_path / "train", {"blue": 8, "red": 8})
    test = draw_squares(tmp_path / "test", {"blue": 3, "red": 3})
    for folder in (train, test):
        (folder / "red" / "broken\x1b[31m.png").write_bytes(b"\x89PNG\r\n\x1a\n no image")
    report = finetune(open_labelled(train), open_labelled(test), settings_of(), tmp_path / "run", cpu=True)
    assert (len(report.skipped), len(report.answers.skipped), len(report.answers.labels)) == (1, 1, 6)
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert torch.isfinite(weights["classifier.linear.weight"]).all()
    lines = [line for line in capsys.readouterr().err.splitlines() if "skipped image 1" in line]
    assert len(lines) == 1
    assert lines[0].isprintable()


def test_images_none_of_which_can_be_read__end_the_run(
    settings_of: Callable[..., FinetuneSettings], tmp_path: Path, labelled_test: LabelledImages
) -> None:
    for name in ("blue", "green", "red"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "empty.png").write_bytes(b"")
    with pytest.raises(ValueError, match="none of the 3 images"):
        finetune(open_labelled(tmp_path / "train"), labelled_test, settings_of(), tmp_path / "run", cpu=True)


def test_without_test_images__a_part_of_each_class_is_held_out(
    settings_of: Callable[..., FinetuneSettings], labelled_train: LabelledImages, tmp_path: Path
) -> None:
    report = finetune(labelled_train, None, settings_of(mode="frozen", holdout=0.25), tmp_path / "run", cpu=True)
    assert report.answers.labels.bincount().tolist() == [2, 2, 3]
    assert report.train_counts == (6, 6, 9)
    assert report.held_out


def answers_with(accuracy: float) -> Answers:
    right = torch.arange(100) < 100 * accuracy
    labels = torch.zeros(100, dtype=torch.long)
    return Answers(("blue", "green", "red"), labels, (~right).long(), right, 1.0, ())


@pytest.mark.parametrize(("keep", "kept"), [("best", 7), ("last", 11)])
def test_saved_model__has_the_weights_to_keep(
    trained: Train, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, keep: str, kept: int
) -> None:
    accuracies = iter([0.5, 0.9, 0.7, 0.9])  # after steps 4, 7 and 11, and of the saved model
    monkeypatch.setattr(f"{MODULE}.measure", lambda *args: answers_with(next(accuracies)))
    report = trained(tmp_path / "run", mode="frozen", epochs=3, keep=keep, save_every=1, keep_checkpoints=20)
    assert report.kept_step == kept
    weights = load_file(tmp_path / "run" / "checkpoints" / f"step-{kept:06d}" / "model.safetensors")
    torch.testing.assert_close(load_file(tmp_path / "run" / "model" / "model.safetensors"), weights, rtol=0, atol=0)


def test_loss_that_is_not_finite__ends_the_run(trained: Train, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteLossError, match=r"not finite at step \d+"):
        trained(tmp_path / "run", learning_rate=1e30)


def test_schedule__warms_up_and_comes_down(trained: Train, tmp_path: Path) -> None:
    trained(tmp_path / "run", learning_rate=1e-3, layer_decay=0.75, epochs=3, warmup_fraction=0.2, log_every=1)
    rates = [record["learning_rate"] for record in read_journal(tmp_path / "run" / "metrics.jsonl")]
    assert max(rates) == pytest.approx(1e-3)
    assert (rates[0], rates.index(max(rates))) == (0.0, 2)
    assert rates[-1] < 0.2e-3


def test_batch_without_a_readable_image__has_no_loss() -> None:
    logits = torch.randn(2, 3, requires_grad=True)
    loss = mean_loss(logits, torch.tensor([-100, -100]))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_loss__is_that_of_torch_with_smoothing() -> None:
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, -100])
    expected = torch.nn.functional.cross_entropy(logits[:3], labels[:3], label_smoothing=0.1)
    torch.testing.assert_close(mean_loss(logits, labels, 0.1), expected)


def options_for(squares: tuple[Path, Path], model_folder: Path, mode: str) -> list[str | Path]:
    """Options of the command for four epochs of the squares."""
    data: list[str | Path] = [squares[0], "--test", squares[1], "--model", model_folder, "--mode", mode]
    return [*data, "--epochs", "4", "--batch-size", "8", "--num-workers", "1", "--save-every", "2"]


@pytest.mark.slow
def test_killed_run__ends_with_the_same_bits(squares: tuple[Path, Path], model_folder: Path, tmp_path: Path) -> None:
    options = options_for(squares, model_folder, "lora")
    with Training(tmp_path / "whole", *options, command="finetune") as training:
        assert training.wait() == [0], training.log()
    with Training(tmp_path / "killed", *options, command="finetune") as training:
        training.wait_for_step(5)
        assert training.kill() == [-signal.SIGKILL], training.log()
    with Training(tmp_path / "killed", *options, "--resume", "auto", command="finetune") as training:
        assert training.wait() == [0], training.log()
    assert different(final_weights(tmp_path / "killed"), final_weights(tmp_path / "whole")) == []


@pytest.mark.slow
def test_two_processes__are_one(squares: tuple[Path, Path], model_folder: Path, tmp_path: Path) -> None:
    options = [*options_for(squares, model_folder, "full"), "--learning-rate", "1e-4"]
    for name, num_processes in (("one", 1), ("two", 2)):
        with Training(tmp_path / name, *options, num_processes=num_processes, command="finetune") as training:
            assert training.wait() == [0] * num_processes, training.log()
    one, two = final_weights(tmp_path / "one"), final_weights(tmp_path / "two")
    assert largest_difference(two, one) < 1e-3
    page = (tmp_path / "two" / "report.md").read_text()
    assert "of 11)" in page  # each test image is counted once
