"""The targets: the EMA teacher, and the rows that tokens are matched to."""

import copy
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stellar_hub.matching import match_tokens
from stellar_hub.modeling import StellarConfig
from stellar_hub.training.model.targets import StellarTeacher, cosine_momentum, matched_rows


@pytest.fixture
def teacher(tiny_options: dict[str, Any]) -> StellarTeacher:
    """With distinct weights."""
    config = StellarConfig(**tiny_options, num_prototypes=8, prototype_dim=4, prototype_hidden_size=8)
    made = StellarTeacher(config)
    for parameter in made.parameters():
        parameter.data = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    return made


@given(momentum=st.floats(0, 1))
def test_follow__is_the_weighted_mean(momentum: float) -> None:
    teacher = torch.nn.ParameterDict({"weight": torch.tensor([1.0, -2.0, 1e4])})
    student = torch.nn.ParameterDict({"weight": torch.tensor([3.0, 0.5, -1e4])})
    expected = momentum * teacher["weight"].double() + (1 - momentum) * student["weight"].double()
    StellarTeacher.follow(torch.nn.ModuleDict({"head": teacher}), {"head": student}, momentum)  # type: ignore[arg-type]
    torch.testing.assert_close(teacher["weight"].double(), expected.detach(), rtol=1e-5, atol=2e-3)


def test_follow__with_momentum_0_copies_exactly(teacher: StellarTeacher) -> None:
    student = copy.deepcopy(teacher)
    for parameter in teacher.parameters():
        parameter.data = parameter.data + torch.randn_like(parameter) * 1e3
    teacher.follow(dict(student.named_children()), momentum=0.0)
    torch.testing.assert_close(teacher.state_dict(), student.state_dict(), rtol=0, atol=0)


def test_follow__reaches_the_sparse_tokens_and_both_heads(teacher: StellarTeacher) -> None:
    names = dict(teacher.named_parameters())
    for name in ("encoder.sparse_tokens", "encoder.pos_embed", "encoder.norm.bias"):
        assert name in names
    for name in ("clustering_head.prototypes.weight", "cls_clustering_head.mlp.fc1.weight"):
        assert name in names
    student = copy.deepcopy(teacher)
    for parameter in student.parameters():
        parameter.data = parameter.data + 1
    before = copy.deepcopy(teacher.state_dict())
    teacher.follow(dict(student.named_children()), momentum=0.5)
    for name, tensor in teacher.state_dict().items():
        torch.testing.assert_close(tensor, before[name] + 0.5, rtol=1e-5, atol=1e-5)


def test_cls_head__is_there_as_in_the_student(tiny_options: dict[str, Any]) -> None:
    without = StellarTeacher(StellarConfig(**tiny_options, use_cls_head=False, use_local_views=False, num_prototypes=4))
    assert without.cls_clustering_head is None


@pytest.mark.parametrize(("progress", "expected"), [(0.0, 0.99), (0.5, 0.995), (1.0, 1.0), (-1.0, 0.99), (1.1, 1.0)])
def test_cosine_momentum__goes_from_start_to_one(progress: float, expected: float) -> None:
    assert math.isclose(cosine_momentum(0.99, progress), expected, abs_tol=1e-12)


@given(start=st.floats(0, 1), first=st.floats(0, 1), second=st.floats(0, 1))
def test_cosine_momentum__rises_and_stays_in_range(start: float, first: float, second: float) -> None:
    low, high = sorted((first, second))
    assert 0 <= cosine_momentum(start, low) <= cosine_momentum(start, high) + 1e-12 <= 1 + 1e-12


class TestMatchedRows:
    def test_rows__find_permuted_tokens_again(self) -> None:
        generator = torch.Generator().manual_seed(0)
        target = 5 * torch.randn(3, 4, 8, generator=generator)
        orders = torch.stack([torch.randperm(4, generator=generator) for _ in range(6)])  # two views of each image
        predicted = torch.stack([target[view // 2][order] for view, order in enumerate(orders)])
        rows = matched_rows(predicted, target, 0.1, 5, use_matching=True)
        expected = (orders + 4 * torch.arange(3).repeat_interleave(2)[:, None]).flatten()
        assert rows.tolist() == expected.tolist()

    def test_rows__without_matching_keep_the_order(self) -> None:
        rows = matched_rows(torch.randn(4, 3, 8), torch.randn(2, 3, 8), 0.1, 5, use_matching=False)
        assert rows.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5]

    @given(images=st.integers(1, 3), views=st.integers(1, 3), tokens=st.integers(1, 5), seed=st.integers(0, 99))
    def test_rows__are_match_tokens_of_each_view_and_stay_in_the_image(
        self, images: int, views: int, tokens: int, seed: int
    ) -> None:
        generator = torch.Generator().manual_seed(seed)
        target = torch.randn(images, tokens, 6, generator=generator)
        predicted = torch.randn(images * views, tokens, 6, generator=generator)
        rows = matched_rows(predicted, target, 0.2, 4, use_matching=True).view(images, views, tokens)
        assert rows.dtype == torch.int64
        for image in range(images):
            for view in range(views):
                index, _ = match_tokens(predicted[[image * views + view]], target[[image]], 0.2, 4)
                assert (rows[image, view] - image * tokens).tolist() == index[0].tolist()
