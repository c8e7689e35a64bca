"""The exported model: complete or as it was before, with its card, in a folder and on the Hub."""

import errno
from pathlib import Path

import pytest
import torch
from torch import Tensor

from stellar_hub.modeling import StellarModel
from stellar_hub.modeling.card_sections import read_section
from stellar_hub.training import exports as module
from stellar_hub.training.exports import export_model, is_exported, push_export
from stellar_hub.training.monitoring.journal import Journal
from stellar_hub.training.recipes.sections import Recipe
from tests.hub_server import HubServer
from tests.stellar_hub.data.sources.conftest import png
from tests.stellar_hub.training.conftest import changed, files_up_to, recipe_for

PNG = png(7)
FACTS = {"steps": "4 of 4", "device": "1 x cpu", "images that could not be read": None}


@pytest.fixture
def recipe() -> Recipe:
    """The tiny recipe with a license."""
    return recipe_for(Path("images"), "run.license=mit")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """A run's folder with a journal of three lines."""
    folder = tmp_path / "my-run"
    folder.mkdir()
    for step in (1, 2, 4):
        Journal(folder / "metrics.jsonl").write(step, {"loss": 8.0 / step, "token_cosine": 0.25})
    return folder


def export(output: Path, model: StellarModel, recipe: Recipe, image: bytes | None = PNG) -> Path:
    return export_model(output, model, recipe, FACTS, image)


def hidden(output: Path) -> list[str]:
    return [path.name for path in output.iterdir() if path.name.startswith(".")]


class TestExport:
    def test_export__loads_and_encodes_alike(
        self, output: Path, pixel_model: StellarModel, recipe: Recipe, images: Tensor
    ) -> None:
        folder = export(output, pixel_model, recipe)
        assert folder == output / "model"
        loaded = StellarModel.from_pretrained(folder)
        with torch.inference_mode():
            expected = pixel_model.encode(images).semantics
            torch.testing.assert_close(loaded.encode(images).semantics, expected, rtol=0, atol=0)

    def test_export__again_keeps_what_a_person_wrote_into_the_card(
        self, output: Path, pixel_model: StellarModel, recipe: Recipe
    ) -> None:
        card = export(output, pixel_model, recipe) / "README.md"
        (card.parent / "mine.png").write_bytes(PNG)
        card.write_text(card.read_text().replace("# my-run\n", "# my-run\n\nBy hand. ![](mine.png)\n"))
        again = export(output, pixel_model, recipe) / "README.md"
        assert "\n\nBy hand. ![](mine.png)\n" in again.read_text()
        assert again.read_text().count("## Training") == 1
        assert (again.parent / "mine.png").read_bytes() == PNG

    def test_card__tells_no_absolute_path(
        self, output: Path, pixel_model: StellarModel, recipe: Recipe, tmp_path: Path
    ) -> None:
        private = changed(recipe, f"data.sources=[{tmp_path / 'mine'}/, photos/b]", f"init={tmp_path / 'start'}")
        card = (export(output, pixel_model, private) / "README.md").read_text()
        assert str(tmp_path) not in card
        assert "sources: [mine, photos/b]" in card
        assert "init: start\n" in card

    def test_card__tells_no_secret_of_an_address(self, output: Path, pixel_model: StellarModel, recipe: Recipe) -> None:
        source = "stream:https://alice:S3CRET@host/a.tar?X-Amz-Signature=S3CRET"
        card = export(output, pixel_model, changed(recipe, f"data.sources=['{source}']", "data.root=/home/alice/x"))
        text = (card / "README.md").read_text()
        assert "S3CRET" not in text
        assert "stream:https://***@host/a.tar?***" in text
        assert "/home/alice" not in text

    def test_exported__is_what_the_card_says(self, output: Path, pixel_model: StellarModel, recipe: Recipe) -> None:
        assert not is_exported(output, 4)
        export(output, pixel_model, recipe)
        assert is_exported(output, 4)
        assert not is_exported(output, 8)

    def test_card__says_how_the_model_was_made(self, output: Path, pixel_model: StellarModel, recipe: Recipe) -> None:
        card = (export(output, pixel_model, recipe) / "README.md").read_text()
        assert card.startswith("---\nlicense: mit\n")
        assert "my-run" in card
        section = read_section(card, "training")
        assert section is not None
        assert "| steps | 4 of 4 |" in section
        assert "could not be read" not in section
        assert "| loss, total | 2 |" in section
        assert "learning_rate: 0.001" in section
        assert "(curves.png)" in section
        assert "(reconstructions.png)" in section

    def test_images__lie_beside_the_card(self, output: Path, pixel_model: StellarModel, recipe: Recipe) -> None:
        folder = export(output, pixel_model, recipe)
        assert (folder / "reconstructions.png").read_bytes() == PNG
        curves = (folder / "curves.png").read_bytes()
        assert curves.startswith(b"\x89PNG")
        assert (output / "curves.png").read_bytes() == curves

    def test_journal_and_image__may_be_missing(self, output: Path, pixel_model: StellarModel, recipe: Recipe) -> None:
        (output / "metrics.jsonl").unlink()
        folder = export(output, pixel_model, recipe, image=None)
        assert not list(folder.glob("*.png"))
        assert ".png" not in (read_section((folder / "README.md").read_text(), "training") or "")

    def test_export__replaces_an_earlier_one_as_a_whole(
        self, output: Path, pixel_model: StellarModel, recipe: Recipe
    ) -> None:
        (export(output, pixel_model, recipe) / "left over.txt").touch()
        with torch.no_grad():
            pixel_model.encoder.cls_token.zero_()
        folder = export(output, pixel_model, recipe)
        assert not (folder / "left over.txt").exists()
        assert not StellarModel.from_pretrained(folder).encoder.cls_token.any()
        assert hidden(output) == []


class TestFailure:
    @pytest.fixture(autouse=True)
    def _earlier(self, output: Path, pixel_model: StellarModel, recipe: Recipe) -> None:
        export(output, pixel_model, recipe)

    def check_earlier(self, output: Path) -> None:
        assert hidden(output) == []
        assert StellarModel.from_pretrained(output / "model").encoder.cls_token.any()
        assert read_section((output / "model" / "README.md").read_text(), "training")

    @pytest.mark.parametrize("size", [40_000, 100_000])  # curves fit, weights do not
    def test_full_disk__leaves_the_earlier_one(
        self, output: Path, pixel_model: StellarModel, recipe: Recipe, size: int
    ) -> None:
        with files_up_to(size), pytest.raises(OSError, match=rf"{output / 'model'}|File too large"):
            export(output, pixel_model, recipe)
        self.check_earlier(output)

    @pytest.mark.parametrize("failing", ["write_training_card", "write_yaml"])
    def test_failure_half_way__leaves_the_earlier_one(
        self,
        output: Path,
        pixel_model: StellarModel,
        recipe: Recipe,
        monkeypatch: pytest.MonkeyPatch,
        failing: str,
    ) -> None:
        def fail(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            export(output, pixel_model, recipe)
        self.check_earlier(output)

    def test_killed_between_two_names__loses_nothing(
        self, output: Path, pixel_model: StellarModel, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (output / "model").rename(output / ".model.old")
        (output / ".model.part").mkdir()  # left by an earlier release
        (output / ".model.0123.part").mkdir()

        def fail(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(module, "write_training_card", fail)
        with pytest.raises(OSError, match="No space left"):
            export(output, pixel_model, recipe)
        self.check_earlier(output)


class TestPush:
    @pytest.fixture(autouse=True)
    def _logged_in(self, client: None, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_TOKEN", "hf_writer")

    def test_push__brings_the_training_to_the_hub(
        self,
        hub: HubServer,
        output: Path,
        pixel_model: StellarModel,
        recipe: Recipe,
    ) -> None:
        folder = export(output, pixel_model, recipe)
        push_export(output, pixel_model, changed(recipe, "run.push_to_hub=user/mine").run)
        files = hub.files("user/mine")
        card = files["README.md"].decode()
        assert card.startswith("---\nlicense: mit\n")
        assert 'from_pretrained("user/mine"' in card
        assert read_section(card, "training") == read_section((folder / "README.md").read_text(), "training")
        for name in ("curves.png", "reconstructions.png", "model.safetensors"):
            assert files[name] == (folder / name).read_bytes()
        assert hub.repositories["user/mine"].private

    def test_push__that_the_hub_refuses_says_where_the_model_is(
        self,
        hub: HubServer,
        output: Path,
        pixel_model: StellarModel,
        recipe: Recipe,
    ) -> None:
        hub.add("user/mine", {"data.csv": b"1,2"})
        export(output, pixel_model, recipe)
        message = rf"{output / 'model'}, and --resume auto"
        with pytest.raises(OSError, match=message):
            push_export(output, pixel_model, changed(recipe, "run.push_to_hub=user/mine").run)
        assert not hub.sent()
