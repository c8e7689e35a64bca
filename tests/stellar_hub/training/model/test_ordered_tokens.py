"""Ordered tokens: what is drawn, which tokens the losses see, and the objective over a prefix."""

import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stellar_hub.modeling import StellarConfig
from stellar_hub.training import StellarForPreTraining
from stellar_hub.training.model.ordered_tokens import (
    draw_num_tokens,
    num_tokens_sampler,
    prefix_mask,
    prefix_rows,
    resolve_num_tokens,
)

Build = Callable[..., StellarForPreTraining]
SOP: dict[str, Any] = {
    "token_objective": "sop",
    "teacher_momentum": 0.9,
    "sop_memory_size": 64,
    "sop_num_tasks": 1,
    "sop_num_anchors": 16,
    "sop_num_supports": 3,
    "sop_token_memory_size": 32,
    "sop_num_token_anchors": 8,
    "sop_num_token_supports": 2,
}
LOSSES = ("reconstruction_loss", "koleo_loss", "clustering_loss", "cls_clustering_loss", "mask_loss", "cls_loss")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("max_tokens", "rate", "found"),
    [(16, 0.5, {1, 2, 4, 8, 16}), (16, 1.0, {1, 2, 4, 8}), (12, 0.5, {1, 2, 4, 8, 12}), (2, 1.0, {1}), (16, 0.0, {16})],
)
def test_draws__are_powers_of_two_and_all(max_tokens: int, rate: float, found: set[int]) -> None:
    drawn = draw_num_tokens((2000,), max_tokens, rate, generator=seeded())
    assert drawn.dtype == torch.int64
    assert set(drawn.tolist()) == found
    assert (drawn < max_tokens).double().mean().item() == pytest.approx(rate, abs=0.05)


def test_sampler__draws_a_scalar_from_its_generator_alone() -> None:
    sampler = num_tokens_sampler(StellarConfig(nested_dropout=0.5))
    assert sampler is not None
    again = pickle.loads(pickle.dumps(sampler))  # as workers that are spawned get it
    drawn = [[int(draw(generator)) for _ in range(9)] for draw, generator in ((sampler, seeded()), (again, seeded()))]
    assert drawn[0] == drawn[1]
    assert sampler(seeded()).shape == ()
    assert num_tokens_sampler(StellarConfig()) is None


def test_prefix__is_repeated_to_the_same_shape() -> None:
    rows = prefix_rows(torch.tensor([1, 2, 3]), 6, 4)  # two views per image
    expected = [[0] * 4, [4] * 4, [8, 9] * 2, [12, 13] * 2, [16, 17, 18, 16], [20, 21, 22, 20]]
    assert rows.unflatten(0, (6, 4)).tolist() == expected
    assert prefix_mask(torch.tensor([1, 3]), 3).tolist() == [[True, False, False], [True, True, True]]


@pytest.mark.parametrize(
    ("num_tokens", "error", "message"),
    [
        (torch.tensor([1.0, 2.0]), TypeError, "int64"),
        (torch.tensor([1]), ValueError, r"\(2,\), got \(1,\)"),
        (torch.tensor([0, 4]), ValueError, "1 to 4, got 0 to 4"),
        (torch.tensor([1, 5]), ValueError, "1 to 4, got 1 to 5"),
    ],
)
def test_wrong_numbers__are_refused(num_tokens: Tensor, error: type[Exception], message: str) -> None:
    config = StellarConfig(num_sparse_tokens=4, nested_dropout=0.5)
    with pytest.raises(error, match=message):
        resolve_num_tokens(config, num_tokens, torch.zeros(2, 3, 32, 32))


def in_double(views: dict[str, Tensor]) -> dict[str, Any]:
    return {name: view.double() if view.is_floating_point() else view for name, view in views.items()}


class TestObjective:
    def test_reconstruction__is_of_what_encode_gives_for_so_many_tokens(
        self, build_pretraining_model: Build, views: dict[str, Tensor]
    ) -> None:
        model, inputs = build_pretraining_model(nested_dropout=0.5).double(), in_double(views)
        numbers = [1, 2]
        output = model(**inputs, num_tokens=torch.tensor(numbers))
        decoder, losses = model.stellar.decoder, []
        assert decoder is not None
        for image, number in zip(inputs["pixel_values"].split(1), numbers, strict=True):
            semantics, localization = model.stellar.encode(image, num_tokens=number)
            losses.append(F.mse_loss(decoder.predict(decoder(localization @ semantics, (4, 4)), (4, 4)), image))
        torch.testing.assert_close(output.reconstruction_loss, torch.stack(losses).mean(), rtol=1e-9, atol=0)

    def test_token_losses__are_those_of_the_first_tokens(
        self, build_pretraining_model: Build, views: dict[str, Tensor]
    ) -> None:
        model, inputs = build_pretraining_model(nested_dropout=0.5).double(), in_double(views)
        embeddings: list[Tensor] = []

        def keep(head: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            output.retain_grad()
            embeddings.append(output)

        model.clustering_head.register_forward_hook(keep)
        few, whole = (model(**inputs, num_tokens=torch.full((2,), number)) for number in (2, 4))
        for output in (few, whole):
            (output.clustering_loss + output.mask_loss).backward()
        clean, masked, clean_of_all, masked_of_all = (each.grad for each in embeddings)
        for gradient, of_all in ((clean, clean_of_all), (masked, masked_of_all)):
            assert gradient is not None
            assert of_all is not None
            assert (gradient[:, 2:] == 0).all()
            torch.testing.assert_close(gradient[:, :2], 2 * of_all[:, :2])  # half as many share the mean
        torch.testing.assert_close(few.koleo_loss, whole.koleo_loss, rtol=0, atol=0)

    def test_sop__compares_the_first_tokens(self, build_pretraining_model: Build, views: dict[str, Tensor]) -> None:
        model = build_pretraining_model(**SOP, nested_dropout=0.5)
        losses = [
            model(**views, num_tokens=torch.tensor(numbers), generator=seeded()).sop_token_loss
            for numbers in ([1, 1], [1, 1], [4, 4])
        ]
        torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=0)
        assert not torch.isclose(losses[0], losses[2])

    def test_all_tokens__give_the_objective_without_the_switch(
        self, build_pretraining_model: Build, views: dict[str, Tensor]
    ) -> None:
        inputs = in_double(views)
        plain = build_pretraining_model().double()(**inputs)
        whole = build_pretraining_model(nested_dropout=0.5).double()(**inputs, num_tokens=torch.tensor([4, 4]))
        for name in LOSSES:
            torch.testing.assert_close(whole[name], plain[name], rtol=1e-9, atol=0)

    def test_numbers__have_no_effect_without_the_switch(
        self, build_pretraining_model: Build, views: dict[str, Tensor]
    ) -> None:
        model = build_pretraining_model()
        torch.testing.assert_close(
            model(**views, num_tokens=torch.tensor([1, 2])).loss, model(**views).loss, rtol=0, atol=0
        )
