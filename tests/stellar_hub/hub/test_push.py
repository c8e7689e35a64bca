"""Pushing to a local Hub with the real client, and loading back what was pushed."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import stellar_hub.modeling
from stellar_hub.hub.push import base_model_of, license_of, push
from stellar_hub.modeling import (
    StellarConfig,
    StellarForImageClassification,
    StellarImageProcessor,
    StellarModel,
)
from tests.hub_server import HubServer

from .conftest import HEADS

ALL_CODE = {path.name for path in Path(stellar_hub.modeling.__file__).parent.glob("*.py")} - {"__init__.py"}
CODE = ALL_CODE - {"classification_stellar.py"}  # of a classifier alone
REPO = "user/repo"


@pytest.fixture(autouse=True)
def _logged_in(client: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_writer")


class TestPush:
    def test_push__sends_weights_configuration_processor_card_and_code(
        self, hub: HubServer, pixel_model: StellarModel
    ) -> None:
        pixel_model.push_to_hub(REPO, license="mit")
        own = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", ".gitattributes"}
        assert set(hub.files(REPO)) == own | CODE

    def test_push__sends_the_code_as_it_is(self, hub: HubServer, pixel_model: StellarModel) -> None:
        pixel_model.push_to_hub(REPO, license="mit")
        folder = Path(stellar_hub.modeling.__file__).parent
        assert all(hub.files(REPO)[name] == (folder / name).read_bytes() for name in CODE)

    def test_push__links_the_code_for_the_auto_classes(self, hub: HubServer, pixel_model: StellarModel) -> None:
        pixel_model.push_to_hub(REPO, license="mit")
        assert json.loads(hub.files(REPO)["config.json"])["auto_map"] == {
            "AutoConfig": "configuration_stellar.StellarConfig",
            "AutoModel": "modeling_stellar.StellarModel",
        }
        assert json.loads(hub.files(REPO)["preprocessor_config.json"])["auto_map"] == {
            "AutoImageProcessor": "image_processing_stellar.StellarImageProcessor"
        }

    def test_push__writes_the_license_into_the_card(self, hub: HubServer, pixel_model: StellarModel) -> None:
        pixel_model.push_to_hub(REPO, license="cc-by-nc-4.0")
        card = hub.files(REPO)["README.md"].decode()
        assert card.startswith("---\nlicense: cc-by-nc-4.0\n")
        assert f'from_pretrained("{REPO}"' in card

    def test_push__is_one_commit_and_returns_its_address(self, hub: HubServer, pixel_model: StellarModel) -> None:
        url = pixel_model.push_to_hub(REPO, license="mit", commit_message="A model")
        assert hub.count("/commit/main", "POST") == 1
        assert url == f"{hub.endpoint}/{REPO}/commit/{hub.repositories[REPO].branches['main']}"

    @pytest.mark.parametrize("head", ["pixel", "vq"])
    def test_pushed_model__gives_equal_outputs_when_loaded_back(
        self, build_model: Callable[..., StellarModel], images: Tensor, head: str
    ) -> None:
        model = build_model(reconstruction_head=head)
        model.push_to_hub(REPO, license="mit")
        loaded = StellarModel.from_pretrained(REPO)
        with torch.inference_mode():
            S, L = model.encode(images)
            again = loaded.encode(images)
            torch.testing.assert_close(again.semantics, S, rtol=0, atol=0)
            torch.testing.assert_close(again.localization, L, rtol=0, atol=0)
            torch.testing.assert_close(loaded.decode(*again), model.decode(S, L), rtol=0, atol=0)

    def test_pushed_model__brings_its_processor_and_configuration(self, pixel_model: StellarModel) -> None:
        pixel_model.push_to_hub(REPO, license="mit")
        processor = StellarImageProcessor.from_pretrained(REPO)
        own = StellarImageProcessor.from_config(pixel_model.config).to_dict()
        assert processor.to_dict() | own == processor.to_dict()
        assert StellarConfig.from_pretrained(REPO).image_size == pixel_model.config.image_size

    def test_pushed_classifier__has_its_head_its_code_and_a_card_of_its_own(
        self, hub: HubServer, pixel_model: StellarModel, images: Tensor, tmp_path: Path
    ) -> None:
        pixel_model.save_pretrained(tmp_path / "base", license="mit", metrics={"psnr": 20.0})
        names = {0: "cat", 1: "dog", 2: "bird"}
        classifier = StellarForImageClassification.from_pretrained(tmp_path / "base", id2label=names)
        classifier.push_to_hub(REPO)
        loaded = StellarForImageClassification.from_pretrained(REPO)
        assert loaded.config.id2label == names
        torch.testing.assert_close(loaded(images).logits, classifier(images).logits, rtol=0, atol=0)
        files = hub.files(REPO)
        assert set(files) >= ALL_CODE
        card = files["README.md"].decode()
        assert "pipeline_tag: image-classification" in card
        assert "psnr" not in card
        pixel_model.push_to_hub("user/other", license="mit")
        classifier.push_to_hub("user/other")  # it replaces the model, and what the card says of it
        card = hub.files("user/other")["README.md"].decode()
        assert "pipeline_tag: image-classification" in card
        assert "| classes | cat, dog, bird |" in card

    def test_push__overwrites_an_older_model_of_ours(
        self, hub: HubServer, build_model: Callable[..., StellarModel]
    ) -> None:
        build_model(reconstruction_head="vq").push_to_hub(REPO, license="mit")
        model = build_model(reconstruction_head="pixel", num_sparse_tokens=2)
        model.push_to_hub(REPO, license="apache-2.0")
        loaded = StellarModel.from_pretrained(REPO)
        assert loaded.config.num_sparse_tokens == 2
        assert hub.files(REPO)["README.md"].startswith(b"---\nlicense: apache-2.0\n")

    def test_push__of_the_same_model_twice_changes_nothing(self, hub: HubServer, pixel_model: StellarModel) -> None:
        first = pixel_model.push_to_hub(REPO, license="mit")
        assert pixel_model.push_to_hub(REPO, license="mit") == first

    def test_push__of_a_model_loaded_back_works(self, hub: HubServer, pixel_model: StellarModel) -> None:
        pixel_model.push_to_hub(REPO, license="mit")
        StellarModel.from_pretrained(REPO).push_to_hub("user/copy", license="mit")
        copied, original = hub.files("user/copy"), hub.files(REPO)
        assert copied["model.safetensors"] == original["model.safetensors"]
        assert copied["config.json"] == original["config.json"]

    def test_push__to_a_branch_leaves_main_alone(self, hub: HubServer, pixel_model: StellarModel) -> None:
        before = hub.add(REPO, {"README.md": b""})
        hub.add(REPO, {"README.md": b""}, branch="v2")
        pixel_model.push_to_hub(REPO, license="mit", revision="v2")
        assert hub.repositories[REPO].branches["main"] == before
        assert "model.safetensors" in hub.files(REPO, "v2")

    def test_push__opens_a_pull_request_on_demand(self, hub: HubServer, pixel_model: StellarModel) -> None:
        hub.add(REPO, {"README.md": b""})
        pixel_model.push_to_hub(REPO, license="mit", create_pr=True)
        assert "model.safetensors" in hub.files(REPO, "refs/pr/1")
        assert set(hub.files(REPO)) == {"README.md"}

    @pytest.mark.parametrize("private", [None, True])
    def test_push__creates_a_private_repository_on_demand(
        self, hub: HubServer, pixel_model: StellarModel, private: bool | None
    ) -> None:
        pixel_model.push_to_hub(REPO, license="mit", private=private)
        assert hub.repositories[REPO].private is bool(private)

    def test_private_repository__loads_with_its_token_alone(self, pixel_model: StellarModel, tmp_path: Path) -> None:
        pixel_model.push_to_hub(REPO, license="mit", private=True)
        assert StellarModel.from_pretrained(REPO, token="hf_writer") is not None
        with pytest.raises(OSError, match=f"{REPO} is not a local folder and is not a valid model identifier"):
            StellarModel.from_pretrained(REPO, token=False, cache_dir=tmp_path / "other")

    def test_push__honours_token(
        self, hub: HubServer, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HF_TOKEN")
        pixel_model.push_to_hub(REPO, license="mit", token="hf_writer")
        asked = [request for request in hub.requests if "/api/models/" in request.path or "/resolve/" in request.path]
        assert {request.token for request in asked} == {"hf_writer"}


class TestLicense:
    @pytest.mark.parametrize("license", [None, "  "])
    def test_push__refuses_an_empty_license_before_anything_is_sent(
        self, hub: HubServer, pixel_model: StellarModel, license: str | None
    ) -> None:
        with pytest.raises(ValueError, match="license="):
            pixel_model.push_to_hub(REPO, license=license)
        assert not hub.requests

    def test_push__takes_the_license_of_the_named_model(self, hub: HubServer, published: HubServer) -> None:
        StellarModel.from_pretrained("stellar-b16", **HEADS).push_to_hub(REPO)
        assert hub.files(REPO)["README.md"].startswith(b"---\nlicense: mit\n")

    def test_push__takes_the_license_of_the_embedded_model(self, hub: HubServer) -> None:
        StellarModel.from_pretrained("stellar-tiny", decoder=False).push_to_hub(REPO)
        assert hub.files(REPO)["README.md"].startswith(b"---\nlicense: apache-2.0\n")

    def test_push__takes_the_license_of_a_saved_folder(
        self, hub: HubServer, pixel_model: StellarModel, tmp_path: Path
    ) -> None:
        pixel_model.save_pretrained(tmp_path / "model", license="cc-by-nc-4.0")
        StellarModel.from_pretrained(tmp_path / "model").push_to_hub(REPO)
        assert hub.files(REPO)["README.md"].startswith(b"---\nlicense: cc-by-nc-4.0\n")

    def test_push__asks_for_the_license_of_a_folder_that_states_none(
        self, pixel_model: StellarModel, tmp_path: Path
    ) -> None:
        pixel_model.save_pretrained(tmp_path / "model")
        with pytest.raises(ValueError, match="license="):
            StellarModel.from_pretrained(tmp_path / "model").push_to_hub(REPO)

    def test_push__reports_a_license_that_the_hub_does_not_know(self, pixel_model: StellarModel) -> None:
        with pytest.raises(ValueError, match='"license" must be one of mit'):
            pixel_model.push_to_hub(REPO, license="my-own")

    @pytest.mark.parametrize(
        ("card", "license"),
        [
            ("---\nlicense: mit\n---\n", "mit"),
            ("---\nlicense: unknown\n---\n", None),
            ("---\nlicense:\n- mit\n---\n", None),
            ("---\ntags:\n- stellar\n---\nlicense: mit\n", None),
            ("no head", None),
        ],
    )
    def test_license_of__reads_the_cards_head(self, tmp_path: Path, card: str, license: str | None) -> None:
        (tmp_path / "README.md").write_text(card)
        assert license_of(str(tmp_path)) == license

    @pytest.mark.parametrize(
        ("name", "license"), [("stellar-h16", "mit"), ("stellar-tiny", "apache-2.0"), ("user/repo", None), ("", None)]
    )
    def test_license_of__knows_named_models(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, license: str | None
    ) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "README.md").write_text("---\nlicense: gpl-3.0\n---\n")  # of the folder one happens to be in
        assert license_of(name) == license


class TestOtherContent:
    @pytest.mark.parametrize(
        "files",
        [
            {"config.json": b'{"model_type": "vit"}', "model.safetensors": b"0"},
            {"data.csv": b"1,2"},
        ],
    )
    def test_push__refuses_a_repository_with_other_content(
        self, hub: HubServer, pixel_model: StellarModel, files: dict[str, bytes]
    ) -> None:
        before = hub.add(REPO, files)
        with pytest.raises(ValueError, match=r"user/repo .*replace=True"):
            pixel_model.push_to_hub(REPO, license="mit")
        assert hub.repositories[REPO].branches["main"] == before
        assert not hub.sent()

    def test_push__overwrites_other_content_when_told_to(self, hub: HubServer, pixel_model: StellarModel) -> None:
        hub.add(REPO, {"config.json": b'{"model_type": "vit"}', "data.csv": b"1,2"})
        pixel_model.push_to_hub(REPO, license="mit", replace=True)
        assert json.loads(hub.files(REPO)["config.json"])["model_type"] == "stellar"
        assert "data.csv" not in hub.files(REPO)
        assert StellarModel.from_pretrained(REPO).config.hidden_size == pixel_model.config.hidden_size

    @pytest.mark.parametrize("files", [{}, {".gitattributes": b""}, {"README.md": b"soon"}])
    def test_push__fills_an_empty_repository(
        self, hub: HubServer, pixel_model: StellarModel, files: dict[str, bytes]
    ) -> None:
        hub.add(REPO, files)
        pixel_model.push_to_hub(REPO, license="mit")
        assert "model.safetensors" in hub.files(REPO)

    def test_push__looks_at_the_branch_it_pushes_to(self, hub: HubServer, pixel_model: StellarModel) -> None:
        hub.add(REPO, {"README.md": b""})
        hub.add(REPO, {"data.csv": b"1,2"}, branch="v2")
        with pytest.raises(ValueError, match="replace=True"):
            pixel_model.push_to_hub(REPO, license="mit", revision="v2")


class TestRefusedByTheHub:
    def test_push__without_the_right_to_write_says_what_to_do(self, hub: HubServer, pixel_model: StellarModel) -> None:
        with pytest.raises(PermissionError, match=r"user/repo \(403\).*`hf auth login`"):
            pixel_model.push_to_hub(REPO, license="mit", token="hf_reader")

    def test_push__without_a_token_says_what_to_do(
        self, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(PermissionError, match=r"user/repo \(401\).*`hf auth login`"):
            pixel_model.push_to_hub(REPO, license="mit")

    def test_push__to_somebody_elses_repository_says_what_to_do(
        self, hub: HubServer, pixel_model: StellarModel
    ) -> None:
        hub.add("other/repo", {"README.md": b""})
        with pytest.raises(PermissionError, match=r"other/repo \(403\)"):
            pixel_model.push_to_hub("other/repo", license="mit")

    def test_push__to_somebody_elses_private_repository_says_what_to_do(
        self, hub: HubServer, pixel_model: StellarModel
    ) -> None:
        hub.add("other/repo", {"data.csv": b""})
        hub.repositories["other/repo"].private = True
        with pytest.raises(PermissionError, match="other/repo"):
            pixel_model.push_to_hub("other/repo", license="mit")

    def test_push__to_a_branch_that_does_not_exist_is_named(self, pixel_model: StellarModel) -> None:
        with pytest.raises(OSError, match=r"did not accept user/repo: .*Revision Not Found"):
            pixel_model.push_to_hub(REPO, license="mit", revision="nope")

    def test_push__says_that_the_hub_is_down(self, hub: HubServer, pixel_model: StellarModel) -> None:
        hub.refuses = "/"
        with pytest.raises(OSError, match=rf"{hub.endpoint} did not accept user/repo: .*503"):
            pixel_model.push_to_hub(REPO, license="mit")

    def test_push__says_that_a_file_did_not_get_through(self, hub: HubServer, pixel_model: StellarModel) -> None:
        hub.refuses = "/storage/"
        with pytest.raises(OSError, match=rf"{hub.endpoint} did not accept user/repo: .*503"):
            pixel_model.push_to_hub(REPO, license="mit")
        assert "model.safetensors" not in hub.files(REPO)

    def test_push__says_that_there_is_no_network(self, hub: HubServer, pixel_model: StellarModel) -> None:
        hub.close()
        with pytest.raises(
            OSError, match=rf"{hub.endpoint} was not reached, so nothing was sent to user/repo: .*refused"
        ):
            pixel_model.push_to_hub(REPO, license="mit")

    @pytest.mark.parametrize(
        ("license", "notes"), [("mit", []), ("apache2", ["'apache2'; did you mean 'apache-2.0'"]), ("mine", ["other"])]
    )
    def test_push__notes_a_license_that_the_hub_may_not_know(
        self, pixel_model: StellarModel, caplog: pytest.LogCaptureFixture, license: str, notes: list[str]
    ) -> None:
        pixel_model.push_to_hub(REPO, license=license, dry_run=True)
        found = [text for text in caplog.messages if "may not know the license" in text]
        assert len(found) == len(notes)
        assert all(note in text for note, text in zip(notes, found, strict=True))

    def test_push__names_a_keyword_that_does_not_exist(self, pixel_model: StellarModel) -> None:
        with pytest.raises(TypeError, match=r"push_to_hub .*'licence'; did you mean 'license'"):
            pixel_model.push_to_hub(REPO, licence="mit")

    def test_push__says_that_it_is_offline(
        self, hub: HubServer, pixel_model: StellarModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(OSError, match=r"was not reached, .*HF_HUB_OFFLINE"):
            pixel_model.push_to_hub(REPO, license="mit")
        assert not hub.requests


class TestDryRun:
    @pytest.mark.parametrize("exists", [False, True])
    def test_dry_run__sends_nothing_and_lists_the_files(
        self, hub: HubServer, pixel_model: StellarModel, exists: bool
    ) -> None:
        if exists:
            hub.add(REPO, {"README.md": b""})
        done = push(pixel_model, REPO, license="mit", dry_run=True)
        assert not hub.sent()
        assert (REPO in hub.repositories) is exists
        assert set(done.files) == {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} | CODE
        assert done.files["model.safetensors"] > 4 * sum(tensor.numel() for tensor in pixel_model.parameters())
        assert done.url == f"{hub.endpoint}/{REPO}"

    def test_dry_run__lists_what_a_push_then_sends(self, hub: HubServer, pixel_model: StellarModel) -> None:
        promised = push(pixel_model, REPO, license="mit", dry_run=True).files
        pushed = push(pixel_model, REPO, license="mit").files
        held = {name: len(content) for name, content in hub.files(REPO).items() if name != ".gitattributes"}
        assert promised == pushed == held

    def test_dry_run__refuses_what_a_push_would(self, hub: HubServer, pixel_model: StellarModel) -> None:
        hub.add(REPO, {"data.csv": b"1,2"})
        with pytest.raises(ValueError, match="replace=True"):
            push(pixel_model, REPO, license="mit", dry_run=True)
        with pytest.raises(ValueError, match="license="):
            push(pixel_model, REPO, dry_run=True)

    def test_dry_run__is_reached_from_the_model(self, hub: HubServer, pixel_model: StellarModel) -> None:
        assert pixel_model.push_to_hub(REPO, license="mit", dry_run=True) == f"{hub.endpoint}/{REPO}"
        assert not hub.sent()


class TestFinish:
    def test_finish__adds_to_what_is_sent(self, hub: HubServer, pixel_model: StellarModel) -> None:
        def finish(folder: Path) -> None:
            card = folder / "README.md"
            card.write_text(card.read_text() + "\nMore of it.\n")
            (folder / "curves.png").write_bytes(b"image")

        done = push(pixel_model, REPO, license="mit", finish=finish)
        assert done.files["curves.png"] == 5
        assert hub.files(REPO)["curves.png"] == b"image"
        assert hub.files(REPO)["README.md"].endswith(b"More of it.\n")

    def test_finish__that_fails_sends_nothing(self, hub: HubServer, pixel_model: StellarModel) -> None:
        def finish(folder: Path) -> None:
            raise ValueError("no card")

        with pytest.raises(ValueError, match="no card"):
            push(pixel_model, REPO, license="mit", finish=finish)
        assert not hub.sent()


def small_image(path: Path) -> bytes:
    """Writes a small image, and returns its bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3), "red").save(path)
    return path.read_bytes()


class TestCard:
    HAND_WRITTEN = "---\nlicense: mit\ntags:\n- mine\n---\n\n# Ours\n\nWords. ![a](images/a%20b.png)\n"

    @pytest.fixture
    def folder(self, pixel_model: StellarModel, tmp_path: Path) -> Path:
        """A saved model whose card is hand-written, with one image."""
        pixel_model.save_pretrained(tmp_path / "model")
        (tmp_path / "model" / "README.md").write_text(self.HAND_WRITTEN)
        small_image(tmp_path / "model" / "images" / "a b.png")
        return tmp_path / "model"

    def test_push__keeps_the_hand_written_card_of_the_folder_and_its_images(self, hub: HubServer, folder: Path) -> None:
        promised = push(StellarModel.from_pretrained(folder), REPO, dry_run=True).files
        StellarModel.from_pretrained(folder).push_to_hub(REPO, license="apache-2.0")
        card = hub.files(REPO)["README.md"].decode()
        assert card.startswith("---\nlicense: apache-2.0\ntags:\n- mine\n")
        assert card.endswith("# Ours\n\nWords. ![a](images/a%20b.png)\n")
        assert hub.files(REPO)["images/a b.png"] == (folder / "images" / "a b.png").read_bytes()
        assert promised["images/a b.png"] == (folder / "images" / "a b.png").stat().st_size

    def test_push__keeps_the_card_that_stands_in_the_repository(
        self, hub: HubServer, pixel_model: StellarModel
    ) -> None:
        pixel_model.push_to_hub(REPO, license="mit")
        files = hub.files(REPO)
        card = files["README.md"].decode().replace("A STELLAR model", "Changed inside our section") + "\nBy hand.\n"
        hub.add(REPO, files | {"README.md": card.encode()})
        pixel_model.push_to_hub(REPO, license="mit")
        again = hub.files(REPO)["README.md"].decode()
        assert again.endswith("\nBy hand.\n")
        assert "Changed inside our section" not in again

    def test_push__prefers_the_hand_written_card_of_the_repository_to_a_generated_one(
        self, hub: HubServer, pixel_model: StellarModel, tmp_path: Path
    ) -> None:
        hub.add(REPO, {"README.md": b"# By hand\n"})
        pixel_model.save_pretrained(tmp_path / "model", license="mit")
        StellarModel.from_pretrained(tmp_path / "model").push_to_hub(REPO)
        assert hub.files(REPO)["README.md"].endswith(b"# By hand\n")

    def test_push__with_replace_keeps_no_card_of_another_model(self, hub: HubServer, pixel_model: StellarModel) -> None:
        hub.add(REPO, {"config.json": b'{"model_type": "vit"}', "README.md": b"# Another\n"})
        pixel_model.push_to_hub(REPO, license="mit", replace=True)
        assert b"Another" not in hub.files(REPO)["README.md"]

    def test_push__sends_neither_secrets_nor_what_links_lead_to(
        self, hub: HubServer, folder: Path, tmp_path: Path
    ) -> None:
        small_image(tmp_path / "private.png")
        (folder / "link.png").symlink_to(tmp_path / "private.png")
        (folder / "token.png").write_text("hf_secret")
        (folder / ".env").write_text("hf_secret")
        (folder / "README.md").write_text(
            "![](link.png) ![](../private.png) ![](token.png) ![](.env) "
            f'<img src="{tmp_path}/private.png"> ![](https://host/a.png) ![](images/a%20b.png)'
        )
        StellarModel.from_pretrained(folder).push_to_hub(REPO, license="mit")
        own = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md", ".gitattributes"}
        assert set(hub.files(REPO)) - CODE == own | {"images/a b.png"}

    def test_push__names_the_base_model(self, hub: HubServer, pixel_model: StellarModel, tmp_path: Path) -> None:
        pixel_model.push_to_hub(REPO, license="mit")
        StellarModel.from_pretrained(REPO).push_to_hub("user/next", license="mit")
        assert f"\nbase_model: {REPO}\n" in hub.files("user/next")["README.md"].decode()
        pixel_model.save_pretrained(tmp_path / "model", license="mit", base_model="some/base")
        StellarModel.from_pretrained(tmp_path / "model").push_to_hub("user/more")
        assert "\nbase_model: some/base\n" in hub.files("user/more")["README.md"].decode()
        assert base_model_of(tmp_path / "model") == "some/base"


class TestModel:
    def test_push_to_hub__refuses_unknown_keywords(self, hub: HubServer, pixel_model: StellarModel) -> None:
        with pytest.raises(TypeError, match="license_name"):
            pixel_model.push_to_hub(REPO, license="mit", license_name="mine")
        assert not hub.requests

    def test_save_pretrained__refuses_to_push(self, hub: HubServer, pixel_model: StellarModel, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="call push_to_hub"):
            pixel_model.save_pretrained(tmp_path / "model", push_to_hub=True)
        assert not hub.requests


class TestBaseModel:
    @pytest.mark.parametrize(
        ("name", "repository"),
        [
            ("stellar-b16", "microsoft/STELLAR"),
            ("user/fine-tuned", "user/fine-tuned"),
            ("timm:vit_base_patch16_224.mae", "timm/vit_base_patch16_224.mae"),
            ("random", None),
            ("stellar-tiny", None),
            ("", None),
            (None, None),
        ],
    )
    def test_base_model_of__is_the_repository_of_the_weights(self, name: str | None, repository: str | None) -> None:
        assert base_model_of(name) == repository
