"""Names that users write for a model."""

from pathlib import Path

import pytest
import torch

from stellar_hub.features.backbones import open_backbone
from stellar_hub.features.backbones.open_backbone import check_spec, split_spec

SMALL_TIMM = "test_vit"  # timm's own, for tests: 64 wide, 160 pixels


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ("a:random", ("a", "random")),
        ("a:/x/y.bin", ("a", "/x/y.bin")),
        ("timm:a:random", ("timm:a", "random")),
        ("timm:a", ("timm:a", None)),
    ],
)
def test_spec__is_a_name_and_where_weights_come_from(spec: str, parts: tuple[str, str | None]) -> None:
    assert split_spec(spec) == parts


@pytest.mark.parametrize("spec", ["", "a:", "timm::random"])
def test_spec__without_a_name_is_refused(spec: str) -> None:
    with pytest.raises(ValueError, match="NAME, NAME:random or NAME:PATH, got"):
        split_spec(spec)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("vit_tiny_patch16_224", OSError, "vit_tiny_patch16_224 could not be fetched .*:random"),
        ("nobody/nothing", OSError, "nobody/nothing could not be fetched"),
        ("stelar-tiny", ValueError, "no model 'stelar-tiny': .* did you mean 'stellar-tiny'"),
        ("./nowhere", FileNotFoundError, r"no such file or folder: \./nowhere"),
        ("timm:vit_tinny", ValueError, "timm has no model 'vit_tinny'"),
        ("vit_tiny_patch16_224.nope", ValueError, r"no weights .* did you mean 'vit_tiny_patch16_224\.augreg"),
        ("stelar-tiny/", ValueError, "no model 'stelar-tiny/'"),
    ],
)
def test_what_is_not_there__is_said_in_one_line(spec: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as raised:
        open_backbone(spec)
    assert "\n" not in str(raised.value)


def test_random_weights__leave_the_generator_as_it_was() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    open_backbone(f"{SMALL_TIMM}:random")
    assert torch.equal(torch.rand(3), expected)


def test_model_instead_of_a_name__is_refused() -> None:
    with pytest.raises(TypeError, match="NAME:PATH, got Linear"):
        open_backbone(torch.nn.Linear(1, 1))  # type: ignore[arg-type]


@pytest.mark.parametrize("spec", ["RUN", "RUN:random", "nobody/nothing:RUN"])
def test_folder_of_a_run__says_where_its_model_is(spec: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    with pytest.raises(OSError, match=rf"training run: load {tmp_path}/model$"):
        check_spec(spec.replace("RUN", str(tmp_path)))
