"""A checkpoint brings back weights, optimizer and random states exactly; a damaged one says which file it is."""

import copy
import json
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.optim import AdamW

from stellar_hub.modeling import StellarConfig, StellarModel
from stellar_hub.training.checkpoints.checkpoints import STATE_FILE, Checkpoints
from stellar_hub.training.checkpoints.run_state import (
    OPTIMIZER_FILE,
    WEIGHTS_FILE,
    load_run,
    random_state,
    random_state_file,
    restore_random_state,
    write_random_state,
    write_run,
)
from stellar_hub.training.model.modeling_pretraining import StellarForPreTraining
from tests.stellar_hub.training.conftest import files_up_to, tiny_recipe_values


def build(seed: int, **options: Any) -> tuple[StellarForPreTraining, AdamW]:
    torch.manual_seed(seed)
    model = StellarForPreTraining(StellarConfig(**(tiny_recipe_values()["model"]["config"] | options)))
    return model, AdamW(model.parameters(), lr=0.1, weight_decay=0.1)


def step(model: StellarForPreTraining, optimizer: AdamW, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


def draws() -> list[float]:
    return [float(torch.rand(())), float(np.random.rand()), random.random(), float(np.random.randn())]


@pytest.fixture(scope="module")
def trained() -> tuple[StellarForPreTraining, AdamW]:
    """A model after two steps; not to be changed."""
    model, optimizer = build(0, teacher_momentum=0.9)
    for seed in (1, 2):
        step(model, optimizer, seed)
    return model, optimizer


@pytest.fixture
def folder(trained: tuple[StellarForPreTraining, AdamW], tmp_path: Path) -> Path:
    """Their checkpoint."""
    write_run(tmp_path, *trained, scaler=None, facts={"step": 2, "fingerprint": "abc"})
    write_random_state(tmp_path, 0)
    return tmp_path


def load(folder: Path, scaler: Any = None, **options: Any) -> tuple[StellarForPreTraining, AdamW]:
    model, optimizer = build(9, **({"teacher_momentum": 0.9} | options))
    load_run(folder, model, optimizer, scaler, 0)
    return model, optimizer


class TestRoundTrip:
    def test_weights__are_the_same_bit_for_bit(
        self, folder: Path, trained: tuple[StellarForPreTraining, AdamW]
    ) -> None:
        loaded = load(folder)[0].state_dict()
        for name, tensor in trained[0].state_dict().items():
            torch.testing.assert_close(loaded[name], tensor, rtol=0, atol=0, msg=name)

    def test_optimizer__goes_on_as_if_nothing_had_been(
        self, folder: Path, trained: tuple[StellarForPreTraining, AdamW]
    ) -> None:
        model, optimizer = load(folder)
        copied, own = copy.deepcopy(trained[0]), AdamW([torch.zeros(())], lr=1.0)
        own = AdamW(copied.parameters(), lr=0.1, weight_decay=0.1)
        own.load_state_dict(copy.deepcopy(trained[1].state_dict()))
        step(copied, own, 3)
        step(model, optimizer, 3)
        for (name, ours), theirs in zip(model.named_parameters(), copied.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0, msg=name)

    def test_folder__whose_name_is_not_utf8_is_loaded(self, folder: Path) -> None:
        expected = load(folder)[0].state_dict()
        renamed = folder.rename(os.fsdecode(os.fsencode(folder.parent) + b"/\xff"))
        for name, tensor in load(renamed)[0].state_dict().items():
            torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)

    def test_random_states__draw_the_same_again(self, folder: Path) -> None:
        write_random_state(folder, 0)
        expected = draws()
        load(folder)
        assert draws() == expected

    def test_random_states__with_a_cached_normal_number(self) -> None:
        np.random.randn()  # numpy draws two and keeps one
        state = random_state()
        expected = draws()
        restore_random_state(state)
        assert draws() == expected

    def test_scaler__is_restored(self, trained: tuple[StellarForPreTraining, AdamW], tmp_path: Path) -> None:
        scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
        write_run(tmp_path, *trained, scaler, {"step": 2})
        other = torch.amp.GradScaler("cpu", init_scale=2.0)
        load(tmp_path, other)
        assert other.get_scale() == 8.0

    def test_state__says_versions_and_facts(self, folder: Path) -> None:
        state = json.loads((folder / STATE_FILE).read_text())
        assert state["step"] == 2
        assert state["fingerprint"] == "abc"
        assert state["torch_version"] == torch.__version__
        assert "library_version" in state

    def test_folder__is_one_to_begin_from(self, folder: Path, trained: tuple[StellarForPreTraining, AdamW]) -> None:
        again = StellarForPreTraining.from_pretrained(folder)
        assert again.newly_initialized == ()
        torch.testing.assert_close(again.state_dict(), trained[0].state_dict(), rtol=0, atol=0)

    def test_folder__is_one_for_inference(self, folder: Path, images: torch.Tensor) -> None:
        assert StellarModel.from_pretrained(folder).encode(images).semantics.shape == (2, 4, 48)

    def test_more_processes__begin_with_their_own_random_state(self, folder: Path) -> None:
        model, optimizer = build(9, teacher_momentum=0.9)
        torch.manual_seed(5)
        expected = draws()[0]
        torch.manual_seed(5)
        load_run(folder, model, optimizer, None, process_index=1)
        assert draws()[0] == expected


class Harmful:
    """Runs code when it is unpickled."""

    ran = False

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return setattr, (Harmful, "ran", True)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": lambda file: file.write_bytes(b""),
    "cut short": lambda file: file.write_bytes(file.read_bytes()[: file.stat().st_size // 2]),
    "overwritten": lambda file: file.write_bytes(b"\x80\x04]\xff" * 100),
    "text": lambda file: file.write_text("not a checkpoint"),
    "pickled": lambda file: file.write_bytes(pickle.dumps(Harmful())),
    "harmful": lambda file: torch.save(Harmful(), file),
    "of something else": lambda file: torch.save({"epoch": 3}, file),
    "a list": lambda file: torch.save([1, 2], file),
}


class TestDamaged:
    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            *((OPTIMIZER_FILE, damage) for damage in DAMAGES),
            (WEIGHTS_FILE, "text"),
            (random_state_file(0), "cut short"),
        ],
    )
    def test_damaged_file__is_named(self, folder: Path, name: str, damage: str) -> None:
        DAMAGES[damage](folder / name)
        with pytest.raises(ValueError, match=rf"^{folder / name} is damaged.*--resume"):
            load(folder)
        assert not Harmful.ran

    def test_other_optimizer__is_named(self, folder: Path, trained: tuple[StellarForPreTraining, AdamW]) -> None:
        write_run(folder, trained[0], AdamW([torch.zeros(1)]), None, {"step": 2})
        with pytest.raises(ValueError, match=rf"^{folder / OPTIMIZER_FILE} "):
            load(folder)

    @pytest.mark.parametrize("name", [WEIGHTS_FILE, OPTIMIZER_FILE])
    def test_missing_file__is_named(self, folder: Path, name: str) -> None:
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            load(folder)

    def test_missing_tensor__is_named(self, folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS_FILE)
        del tensors["stellar.encoder.cls_token"]
        save_file(tensors, folder / WEIGHTS_FILE)
        with pytest.raises(ValueError, match=r"(.|\n)*stellar\.encoder\.cls_token"):
            load(folder)

    def test_other_sizes__are_named(self, folder: Path) -> None:
        with pytest.raises(ValueError, match=r"(.|\n)*clustering_head\.prototypes\.weight"):
            load(folder, num_prototypes=8)


@pytest.mark.parametrize("size", [0, 750_000])
def test_disk_that_fills_up__leaves_the_earlier_checkpoint_alone(
    trained: tuple[StellarForPreTraining, AdamW], tmp_path: Path, size: int
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)

    def write(folder: Path) -> None:
        write_run(folder, *trained, scaler=None, facts={"step": 2})

    checkpoints.save(2, write)
    assert (
        (checkpoints.path(2) / WEIGHTS_FILE).stat().st_size
        < 750_000
        < (checkpoints.path(2) / OPTIMIZER_FILE).stat().st_size
    )
    with files_up_to(size), pytest.raises(OSError, match=rf"step 4 .*{tmp_path}: "):
        checkpoints.save(4, write)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000002"]
    load(checkpoints.path(2))
