"""Probes of a run: what they measure, and that they leave no trace in the weights."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stellar_hub.measures import effective_rank, knn_accuracy, token_cosine
from stellar_hub.modeling import StellarModel
from stellar_hub.training.checkpoints.checkpoints import OPTIMIZER_FILE
from stellar_hub.training.checkpoints.run_state import random_state
from stellar_hub.training.monitoring import probes
from stellar_hub.training.monitoring.probes import MAX_SHARE, Probe, encode, probe_values
from stellar_hub.training.monitoring.quantities import QUANTITIES
from stellar_hub.training.monitoring.undisturbed import undisturbed
from stellar_hub.training.recipes.sections import Recipe
from stellar_hub.training.train import Stopped, train
from tests.stellar_hub.training.conftest import SOP, STEP_4, assert_same_weights, changed, draw_images, journal_of
from tests.stellar_hub.training.test_train import send_signal

UNLABELLED = {
    *("probe_rank", "probe_rank_cls", "probe_token_rank", "probe_token_cosine"),
    *("probe_map_sharpness", "probe_map_area", "probe_owning_tokens"),
}
LABELLED = {"probe_knn", "probe_knn_cls"} | UNLABELLED


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """Two class folders of three images each."""
    for name in ("a", "b"):
        draw_images(tmp_path / "classes" / name, 3)
    return tmp_path / "classes"


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def randomness() -> str:
    """The state of all global random number generators, as text."""
    state = random_state()
    numpy = [part.tolist() if isinstance(part, Tensor) else part for part in state["numpy"]]
    return str([state["torch"].tolist(), numpy, state["python"]])


class TestRun:
    @pytest.mark.parametrize(
        "overrides",
        [("teacher_momentum=0.9",), ("precision=bf16",), ("precision=fp64",), SOP],
        ids=["teacher", "bf16", "fp64", "sop"],
    )
    def test_weights__are_bit_identical_with_probes_and_without(
        self, tiny_recipe: Recipe, tmp_path: Path, classes: Path, overrides: tuple[str, ...]
    ) -> None:
        recipe = changed(tiny_recipe, *overrides)
        train(recipe, tmp_path / "off", cpu=True)
        states = randomness()
        train(changed(recipe, "probe_every=1", f"data.probe={classes}"), tmp_path / "on", cpu=True)
        assert_same_weights(tmp_path / "on", tmp_path / "off")
        assert randomness() == states
        on, off = (torch.load(tmp_path / name / STEP_4 / OPTIMIZER_FILE) for name in ("on", "off"))
        torch.testing.assert_close(on["optimizer"]["state"], off["optimizer"]["state"], rtol=0, atol=0)

    def test_journal__has_probes_every_so_many_steps_and_at_the_first_and_last(
        self, tiny_recipe: Recipe, tmp_path: Path, classes: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        recipe = changed(tiny_recipe, "log_every=4", "probe_every=3", f"data.probe={classes}")
        folder = train(recipe, tmp_path / "run", cpu=True)
        records = journal_of(tmp_path / "run")
        assert [record["step"] for record in records] == [1, 3, 4]
        assert all(set(record) >= LABELLED for record in records)
        assert [set(record) == {"step", *LABELLED} for record in records] == [False, True, False]
        assert set(QUANTITIES) >= LABELLED
        card = (folder / "README.md").read_text()
        assert "% of the time |" in card
        assert QUANTITIES["probe_knn"].label in card
        err = capsys.readouterr().err
        assert err.count("probe after step") == 3
        assert "of the time" in err

    def test_resumed_run__ends_with_the_weights_and_values_of_one_that_was_not_interrupted(
        self, tiny_recipe: Recipe, tmp_path: Path, classes: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        recipe = changed(tiny_recipe, "probe_every=1", f"data.probe={classes}", "log_every=1")
        train(recipe, tmp_path / "whole", cpu=True)
        with monkeypatch.context() as patch:
            send_signal(patch, step=1)
            with pytest.raises(Stopped):
                train(recipe, tmp_path / "run", cpu=True)
        train(recipe, tmp_path / "run", resume="auto", cpu=True)
        assert_same_weights(tmp_path / "run", tmp_path / "whole")
        values = [
            [{name: record[name] for name in LABELLED} for record in journal_of(tmp_path / name)]
            for name in ("run", "whole")
        ]
        assert len(values[0]) == 4
        assert values[0] == values[1]

    def test_run_without_labels__measures_its_own_images(self, tiny_recipe: Recipe, tmp_path: Path) -> None:
        train(changed(tiny_recipe, "probe_every=4"), tmp_path / "run", cpu=True)
        assert set(journal_of(tmp_path / "run")[-1]) & LABELLED == UNLABELLED

    def test_exports_card__has_the_losses_of_an_earlier_line(
        self, tiny_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        send_signal(monkeypatch, step=2)
        with pytest.raises(Stopped):
            train(changed(tiny_recipe, "log_every=4", "probe_every=3", "export_every=3"), tmp_path / "run", cpu=True)
        card = (tmp_path / "run" / "model" / "README.md").read_text()
        for name in ("loss", "probe_rank"):
            assert f"| {QUANTITIES[name].label} |" in card


class TestProbe:
    def test_values__are_the_measures_of_the_features(self, pixel_model: StellarModel) -> None:
        images, labels = noise(6), torch.tensor([0, 0, 0, 1, 1, 1])
        values = Probe(images, 1, labels).measure(pixel_model, batch_size=4)
        with torch.inference_mode():
            output = pixel_model(images)
        assert set(values) == LABELLED
        assert values["probe_rank"] == pytest.approx(effective_rank(output.pooler_output).item(), rel=1e-4)
        assert values["probe_rank_cls"] == pytest.approx(effective_rank(output.cls_token).item(), rel=1e-4)
        assert values["probe_token_cosine"] == pytest.approx(token_cosine(output.last_hidden_state).item(), rel=1e-4)
        right = 0.0
        for row in range(6):
            others = torch.arange(6) != row
            bank = output.pooler_output[others], labels[others]
            right += knn_accuracy(output.pooler_output[row : row + 1], labels[row : row + 1], *bank, 2)
        assert values["probe_knn"] == pytest.approx(right / 6)

    def test_features_that_tell_the_classes_apart__are_all_right(self) -> None:
        labels = torch.arange(40) % 2
        pooled = torch.nn.functional.one_hot(labels, 3) + 0.1 * torch.rand(40, 3)
        features = {"pooled": pooled, "cls": 1 - pooled, "S": torch.rand(40, 4, 3), "L": torch.full((40, 9, 4), 0.25)}
        values = probe_values(features, labels)
        assert values["probe_knn"] == values["probe_knn_cls"] == 1
        assert values["probe_map_sharpness"] == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize(("counts", "expected"), [((5, 5, 2), 4), ((2, 2), 1), ((30, 40, 50), 20)])
    def test_neighbours__are_as_many_as_a_class_of_usual_size_has(
        self, monkeypatch: pytest.MonkeyPatch, counts: tuple[int, ...], expected: int
    ) -> None:
        monkeypatch.setattr(probes, "leave_one_out_accuracy", lambda features, labels, neighbours: neighbours)
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        rows = torch.rand(len(labels), 4, 3)
        features = {"pooled": rows[:, 0], "cls": rows[:, 1], "S": rows, "L": torch.full((len(labels), 9, 4), 0.25)}
        assert probe_values(features, labels)["probe_knn"] == expected

    def test_weights_that_are_not_finite__give_nan_and_no_error(self, pixel_model: StellarModel) -> None:
        pixel_model.encoder.cls_token.data.fill_(math.nan)
        values = Probe(noise(4), 1, torch.tensor([0, 0, 1, 1])).measure(pixel_model)
        assert set(values) == LABELLED
        assert all(math.isnan(value) for value in values.values())

    def test_too_few_images__give_nothing(self, pixel_model: StellarModel) -> None:
        assert Probe(noise(2), 1).measure(pixel_model) == {}

    def test_probe_that_keeps_others_waiting__is_given_up_and_said_once(self, pixel_model: StellarModel) -> None:
        probe = Probe(noise(4), 1, max_seconds=-1.0)
        assert probe.measure(pixel_model) == {}
        assert len(probe.lines(1, {})) == 1
        assert probe.measure(pixel_model) == {}
        assert (probe.num_probes, probe.lines(2, {})) == (1, [])

    def test_share__is_of_steps_and_probes_and_one_warning_says_what_to_set(self) -> None:
        probe = Probe(noise(3), every=10)
        values = {"probe_rank": 2.0}
        probe.note_step(1.0)
        probe.num_probes, probe.probe_seconds = 1, 1.0
        (line,) = probe.lines(1, values)  # the first one comes after one step
        assert "%" not in line
        for _ in range(9):
            probe.note_step(1.0)
        probe.num_probes, probe.probe_seconds = 2, 2.0
        assert probe.share == pytest.approx(2 / 12)
        line, warning = probe.lines(10, values)
        assert "16.7%" in line
        assert "run.probe_every=33" in warning
        assert 1 / (1 + 33) < MAX_SHARE < 1 / (1 + 32)
        assert len(probe.lines(20, values)) == 1

    def test_encode__gives_each_batch_size_the_same(self, pixel_model: StellarModel) -> None:
        with undisturbed(pixel_model):
            one, many = (encode(pixel_model, noise(5), size) for size in (1, 5))
        torch.testing.assert_close(one, many)


class TestUndisturbed:
    def test_model__gets_its_modes_and_the_random_numbers_go_on(self, pixel_model: StellarModel) -> None:
        pixel_model.train()
        pixel_model.encoder.eval()
        modes = [module.training for module in pixel_model.modules()]
        states = randomness()
        with undisturbed(pixel_model):
            assert not any(module.training for module in pixel_model.modules())
            assert not torch.is_grad_enabled()
            torch.rand(3)
        assert [module.training for module in pixel_model.modules()] == modes
        assert randomness() == states

    def test_compiled_blocks__are_called_as_written_and_stay_compiled(self, pixel_model: StellarModel) -> None:
        def compiled(*arguments: object) -> None:
            raise AssertionError("the compiled block was called")

        blocks = list(pixel_model.encoder.blocks)
        for block in blocks:
            block._compiled_call_impl = compiled
        assert set(Probe(noise(3), 1).measure(pixel_model)) == UNLABELLED
        assert all(block._compiled_call_impl is compiled for block in blocks)

    def test_error__undoes_all_the_same(self, build_model: Callable[..., StellarModel]) -> None:
        model = build_model().train()
        with pytest.raises(KeyError), undisturbed(model):
            raise KeyError
        assert model.training
