"""The terms of the objective, against the paper's formulas written out with the building blocks."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from stellar_hub.matching import match_tokens
from stellar_hub.modeling import StellarConfig
from stellar_hub.training import StellarForPreTraining
from stellar_hub.training.model.views import EncodedViews, encode_views
from stellar_hub.training.objectives import koleo_loss, sinkhorn_assign

Build = Callable[..., StellarForPreTraining]
TEACHER = {"teacher_momentum": 0.9}
ALIGN = {"use_global_align": True}
NO_CLS = {"use_cls_head": False, "use_local_views": False}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "teacher": TEACHER,
    "align": ALIGN,
    "align with teacher": TEACHER | ALIGN,
    "teacher, no matching": TEACHER | {"use_matching": False},
    "align, no cls head": ALIGN | NO_CLS,
    "align with teacher, no cls head": TEACHER | ALIGN | NO_CLS,
    "other numbers": {
        "sinkhorn_scale": 0.8,
        "sinkhorn_temp": 0.1,
        "sinkhorn_num_iters": 2,
        "prototype_temp": 0.2,
        "koleo_weight": 0.3,
        "matching_epsilon": 0.5,
        "matching_num_iters": 2,
        "reconstruction_weight": 2,
    },
}


class View(NamedTuple):
    """One view of each image, or several, as its model sees it.

    Attributes:
        encoded: cls, patches and tokens.
        embeddings: Of the tokens, `(N, r, p)`.
        cls_embeddings: `(N, p)`, or None.
    """

    encoded: EncodedViews
    embeddings: Tensor
    cls_embeddings: Tensor | None


class Reference:
    """The objective by the book: every tensor at its full size, every target written out.

    Args:
        model: The model.
        inputs: Its batch, in float64.
    """

    def __init__(self, model: StellarForPreTraining, inputs: dict[str, Tensor]):
        self.model, self.inputs = model, inputs
        self.config: StellarConfig = model.config
        self.student: dict[str, Any] = {
            "encoder": model.stellar.encoder,
            "clustering_head": model.clustering_head,
            "cls_clustering_head": model.cls_clustering_head,
        }
        self.maker = self.student if model.teacher is None else dict(model.teacher.named_children())

    def see(self, parts: Any, pixel_values: Tensor, kept_patches: Tensor | None = None) -> View:
        encoded = encode_views(parts["encoder"], pixel_values, kept_patches)
        cls_head = parts["cls_clustering_head"] if self.config.use_cls_head else None
        cls_embeddings = None if cls_head is None else cls_head(encoded.cls_token)
        return View(encoded, parts["clustering_head"](encoded.tokens), cls_embeddings)

    def assign(self, head: Any, embeddings: Tensor) -> Tensor:
        scores = embeddings @ head.prototypes.weight.T / self.config.sinkhorn_temp
        return sinkhorn_assign(scores, self.config.sinkhorn_num_iters, self.config.sinkhorn_scale).detach()

    def cross_entropy(self, name: str, embeddings: Tensor, target: Tensor) -> Tensor:
        scores = embeddings @ self.student[name].prototypes.weight.T / self.config.prototype_temp
        return -(target * scores.log_softmax(dim=-1)).sum(dim=-1).mean()

    def token_term(self, view: View, target: View, matched: bool = True) -> Tensor:
        """Tokens of `B V` views against the assignments of their images' tokens, `B` of them."""
        assignment = self.assign(self.maker["clustering_head"], target.embeddings.flatten(0, 1))
        rows = assignment.unflatten(0, target.embeddings.shape[:2])  # (B, r, K)
        views = len(view.embeddings) // len(rows)
        rows, tokens = rows.repeat_interleave(views, 0), target.encoded.tokens.repeat_interleave(views, 0)
        if matched and self.config.use_matching:
            numbers = self.config.matching_epsilon, self.config.matching_num_iters
            index, _ = match_tokens(view.encoded.tokens, tokens, *numbers)
            rows = torch.stack([image_rows[order] for image_rows, order in zip(rows, index, strict=True)])
        return self.cross_entropy("clustering_head", view.embeddings, rows)

    def cls_term(self, cls_embeddings: Tensor | None, target: View) -> Tensor | None:
        if cls_embeddings is None or target.cls_embeddings is None:
            return None
        assignment = self.assign(self.maker["cls_clustering_head"], target.cls_embeddings)
        views = len(cls_embeddings) // len(assignment)
        return self.cross_entropy("cls_clustering_head", cls_embeddings, assignment.repeat_interleave(views, 0))

    def terms(self) -> dict[str, Tensor | None]:
        image, other = self.inputs["pixel_values"], self.inputs["global_views"][:, 1]
        clean = self.see(self.student, image)
        target = clean if self.model.teacher is None else self.see(self.maker, other)
        masked = self.see(self.student, self.inputs["global_views"].flatten(0, 1), self.inputs["kept_patches"])
        pairs = [(clean, target)]
        if self.config.use_global_align:
            second = self.see(self.student, other)
            if self.model.teacher is None:
                pairs = [(clean, second), (second, clean)]
            else:
                pairs = [(clean, target), (second, self.see(self.maker, image))]
        matched = self.config.use_global_align or self.model.teacher is not None
        spread = koleo_loss(clean.encoded.tokens) + koleo_loss(masked.encoded.tokens)
        found: dict[str, Tensor | None] = {
            "koleo_loss": self.config.koleo_weight * spread,
            "clustering_loss": mean([self.token_term(view, of, matched) for view, of in pairs]),
            "cls_clustering_loss": mean([self.cls_term(view.cls_embeddings, of) for view, of in pairs]),
            "mask_loss": self.token_term(masked, target),
            "cls_loss": self.cls_term(masked.cls_embeddings, target),
            "reconstruction_loss": self.reconstruction(image),
        }
        local = self.see(self.student, self.inputs["local_views"].flatten(0, 1))
        of_local = self.cls_term(local.cls_embeddings, target)
        if found["cls_loss"] is not None and of_local is not None:
            found["cls_loss"] = found["cls_loss"] + of_local
        return found

    def reconstruction(self, image: Tensor) -> Tensor:
        semantics, localization = self.model.stellar.encode(image)
        decoder = self.model.stellar.decoder
        assert decoder is not None
        return F.mse_loss(decoder.predict(decoder(localization @ semantics, (4, 4)), (4, 4)), image)


def mean(terms: list[Tensor | None]) -> Tensor | None:
    return None if terms[0] is None else torch.stack([term for term in terms if term is not None]).mean()


@pytest.mark.parametrize("case", CASES)
def test_objective__is_the_formula(build_pretraining_model: Build, views: dict[str, Tensor], case: str) -> None:
    model = build_pretraining_model(**CASES[case]).double()
    inputs = {name: view.double() if view.is_floating_point() else view for name, view in views.items()}
    output = model(**inputs)
    expected = Reference(model, inputs).terms()
    found = {name: getattr(output, name) for name in expected}
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)
    weight = CASES[case].get("reconstruction_weight", 10)
    assert expected["reconstruction_loss"] is not None
    total = sum(term for term in expected.values() if term is not None) + (weight - 1) * expected["reconstruction_loss"]
    torch.testing.assert_close(output.loss, total, rtol=1e-9, atol=0)

    output.loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert isinstance(total, Tensor)
    by_book = torch.autograd.grad(total, [p for p in model.parameters() if p.requires_grad])
    torch.testing.assert_close(gradients, dict(zip(gradients, by_book, strict=True)), rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("case", ["plain", "teacher", "teacher, no matching"])
def test_meters__are_as_documented(build_pretraining_model: Build, views: dict[str, Tensor], case: str) -> None:
    model = build_pretraining_model(**CASES[case]).double()
    inputs = {name: view.double() if view.is_floating_point() else view for name, view in views.items()}
    output, reference = model(**inputs), Reference(model, inputs)
    clean = reference.see(reference.student, inputs["pixel_values"])
    target, seen = clean, clean
    if model.teacher is None:
        seen = reference.see(reference.student, inputs["global_views"].flatten(0, 1), inputs["kept_patches"])
    else:
        target = reference.see(reference.maker, inputs["global_views"][:, 1])
    assignment = reference.assign(reference.maker["clustering_head"], target.embeddings.flatten(0, 1))
    torch.testing.assert_close(output.mean_assignment, assignment.mean(dim=0), rtol=1e-9, atol=0)
    torch.testing.assert_close(output.tokens, clean.encoded.tokens.detach(), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(output.localization, model.stellar.encode(inputs["pixel_values"])[1].detach())
    cosines = []
    for index, (tokens, embeddings) in enumerate(zip(seen.encoded.tokens, seen.embeddings, strict=True)):
        image = index * len(target.embeddings) // len(seen.embeddings)
        order = torch.arange(4)
        if model.config.use_matching:
            order = match_tokens(tokens[None], target.encoded.tokens[[image]])[0][0]
        cosines.append(F.cosine_similarity(embeddings, target.embeddings[image][order], dim=-1))
    assert math.isclose(float(output.agreement), float(torch.stack(cosines).detach().mean()), rel_tol=1e-9)
