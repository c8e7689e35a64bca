"""Published names from the first download on, and repositories and files beside them: the real client, a local Hub."""

import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from stellar_hub import StellarConfig, StellarImageProcessor, StellarModel
from stellar_hub.conversion import load_original
from stellar_hub.registry import MODELS, TOKENIZER
from tests.hub_server import HubServer

from .conftest import HEADS, Run

CHECKPOINT = "stellar-b16.safetensors"


@pytest.fixture
def original(golden_dir: Path) -> StellarModel:
    """What the published name must become: the same files, loaded as files."""
    return load_original(golden_dir / "original-vq.safetensors", vqgan=golden_dir / "vqgan.bin", **HEADS)


@pytest.fixture
def _no_sockets(client: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No attempt to reach the network is made, although offline mode does not keep anyone from it."""
    attempts = []

    def refuse(*arguments: Any, **_: Any) -> NoReturn:
        attempts.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert not attempts


def assert_same(model: StellarModel, expected: StellarModel, images: Tensor) -> None:
    """Both are float32 and compute the same, down to the decoded image."""
    assert model.dtype == expected.dtype == torch.float32
    with torch.inference_mode():
        encoding = expected.encode(images)
        torch.testing.assert_close(tuple(model.encode(images)), tuple(encoding), rtol=0, atol=0)
        torch.testing.assert_close(model.decode(*encoding), expected.decode(*encoding), rtol=0, atol=0)


class TestFirstAndLaterProcesses:
    """In processes of their own, which know the Hub from their environment alone."""

    @pytest.mark.slow
    def test_published_name__is_downloaded_once_then_loads_offline(
        self, published: HubServer, run: Run, original: StellarModel, images: Tensor, tmp_path: Path
    ) -> None:
        save_file({"images": images}, tmp_path / "images.safetensors")
        script = """
            import torch
            from safetensors.torch import load_file, save_file
            from stellar_hub import StellarModel

            model = StellarModel.from_pretrained("stellar-b16", num_attention_heads=3, decoder_num_attention_heads=4)
            assert model.dtype == torch.float32
            with torch.inference_mode():
                S, L = model.encode(load_file(images)["images"])
                results = {"S": S, "L": L, "decoded": model.decode(S, L)}
            save_file({name: tensor.contiguous() for name, tensor in results.items()}, output)
            """
        with torch.inference_mode():
            S, L = original.encode(images)
            expected = {"S": S, "L": L, "decoded": original.decode(S, L)}
        paths = {"images": tmp_path / "images.safetensors"}

        run(script, paths=paths | {"output": tmp_path / "first"})
        torch.testing.assert_close(load_file(tmp_path / "first"), expected, rtol=1e-6, atol=1e-6)
        assert published.count(CHECKPOINT) == published.count(TOKENIZER.name) == 1

        published.refuses = "/"
        published.requests.clear()
        run(script, paths=paths | {"output": tmp_path / "second"}, HF_HUB_OFFLINE="1")
        torch.testing.assert_close(load_file(tmp_path / "second"), expected, rtol=1e-6, atol=1e-6)
        assert not published.requests

    def test_published_name__without_decoder_says_nothing_and_asks_for_one_file(
        self, published: HubServer, run: Run
    ) -> None:
        done = run(
            """
            import os
            from stellar_hub import StellarModel

            model = StellarModel.from_pretrained("stellar-b16", decoder=False, num_attention_heads=3)
            assert model.decoder is None and model.tokenizer is None
            cached = {name for _, _, names in os.walk(os.environ["HF_HOME"]) for name in names}
            assert "stellar-b16.safetensors" in cached and not any("vqgan" in name for name in cached), cached
            """
        )
        assert "LOAD REPORT" not in done.stdout + done.stderr
        assert not any(TOKENIZER.name in request.path for request in published.requests)


@pytest.mark.usefixtures("client")
class TestFetching:
    def test_published_name__equals_the_files_loaded_as_files(
        self, published: HubServer, original: StellarModel, images: Tensor
    ) -> None:
        assert_same(StellarModel.from_pretrained("stellar-b16", **HEADS), original, images)

    def test_published_name__needs_no_hub_once_cached(
        self, published: HubServer, original: StellarModel, images: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        StellarModel.from_pretrained("stellar-b16", **HEADS)
        published.refuses = "/"
        published.requests.clear()
        assert_same(StellarModel.from_pretrained("stellar-b16", local_files_only=True, **HEADS), original, images)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        assert_same(StellarModel.from_pretrained("stellar-b16", **HEADS), original, images)
        assert not published.requests

    def test_broken_connection__is_resumed(self, published: HubServer, original: StellarModel, images: Tensor) -> None:
        published.cuts = {CHECKPOINT: [500_000], TOKENIZER.name: [700_000, 200_000]}
        assert_same(StellarModel.from_pretrained("stellar-b16", **HEADS), original, images)
        ranges = [request.range for request in published.requests if request.method == "GET" and request.range]
        assert len(ranges) == 3

    def test_broken_download__is_completed_by_the_next_load(
        self, published: HubServer, original: StellarModel, images: Tensor
    ) -> None:
        published.cuts = {TOKENIZER.name: [700_000] + [0] * 20}
        with pytest.raises(OSError, match=rf"{TOKENIZER.name} \(218 MB\) of fun-research/TiTok"):
            StellarModel.from_pretrained("stellar-b16", **HEADS)
        published.cuts.clear()
        assert_same(StellarModel.from_pretrained("stellar-b16", **HEADS), original, images)
        assert published.count(CHECKPOINT) == 1

    def test_no_network__is_said_with_what_to_do(self, published: HubServer) -> None:
        published.close()
        with pytest.raises(OSError, match=rf"{CHECKPOINT} .* from {published.endpoint}, .* `hf download"):
            StellarModel.from_pretrained("stellar-b16", **HEADS)

    def test_published_name__fetches_checkpoint_and_tokenizer_once(self, published: HubServer) -> None:
        StellarModel.from_pretrained("stellar-b16", **HEADS)
        StellarModel.from_pretrained("stellar-b16", **HEADS)
        assert published.count(CHECKPOINT) == published.count(TOKENIZER.name) == 1
        assert {request.path.split("/")[-1] for request in published.requests} <= {
            CHECKPOINT,
            TOKENIZER.name,
            "agent-harnesses",
        }

    def test_published_name__fetches_no_tokenizer_without_decoder(self, published: HubServer) -> None:
        model = StellarModel.from_pretrained("stellar-b16", decoder=False, **HEADS)
        assert model.decoder is None
        assert published.count(CHECKPOINT) == 1
        assert not any(TOKENIZER.name in request.path for request in published.requests)

    def test_published_name__takes_a_given_tokenizer(self, published: HubServer, golden_dir: Path) -> None:
        model = StellarModel.from_pretrained("stellar-b16", vqgan=golden_dir / "vqgan.bin", **HEADS)
        assert model.tokenizer is not None
        assert not any(TOKENIZER.name in request.path for request in published.requests)

    def test_published_name__takes_its_own_file_alone(self, published: HubServer) -> None:
        StellarModel.from_pretrained("stellar-b8", decoder=False, **HEADS)
        assert [
            request.path for request in published.requests if request.method == "GET" and "api" not in request.path
        ] == [
            f"/microsoft/STELLAR/resolve/{MODELS['stellar-b8'].file.revision}/stellar-b8.safetensors"  # type: ignore[union-attr]
        ]

    def test_revision__is_that_of_the_checkpoint_alone(
        self, published: HubServer, original_files: dict[str, bytes]
    ) -> None:
        published.add("microsoft/STELLAR", {CHECKPOINT: original_files[CHECKPOINT]}, branch="newer")
        model = StellarModel.from_pretrained("stellar-b16", revision="newer", **HEADS)
        assert model.tokenizer is not None
        paths = [request.path for request in published.requests if request.method == "HEAD"]
        assert f"/microsoft/STELLAR/resolve/newer/{CHECKPOINT}" in paths
        assert f"/{TOKENIZER.repository}/resolve/{TOKENIZER.revision}/{TOKENIZER.name}" in paths

    def test_token_and_cache_dir__are_used_for_both_files(
        self, published: HubServer, cache: Path, tmp_path: Path
    ) -> None:
        StellarModel.from_pretrained("stellar-b16", token="hf_reader", cache_dir=tmp_path / "there", **HEADS)
        files = [request for request in published.requests if "/resolve/" in request.path]
        assert {request.token for request in files} == {"hf_reader"}
        assert len(list((tmp_path / "there").rglob("snapshots/*/*"))) == 2
        assert not cache.exists()

    def test_published_name__loads_as_float32_unless_told_otherwise(self, published: HubServer) -> None:
        assert StellarModel.from_pretrained("stellar-b16", **HEADS).dtype == torch.float32
        half = StellarModel.from_pretrained("stellar-b16", dtype=torch.bfloat16, **HEADS)
        assert half.dtype == half.config.dtype == torch.bfloat16
        assert half.decoder.position_code.frequencies.dtype == torch.float32

    def test_published_name__gives_loading_info_with_nothing_left_over(self, published: HubServer) -> None:
        _, info = StellarModel.from_pretrained("stellar-b16", output_loading_info=True, **HEADS)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"))

    def test_published_name__honours_device_map(self, published: HubServer) -> None:
        model = StellarModel.from_pretrained("stellar-b16", device_map="cpu", **HEADS)
        assert model.device == torch.device("cpu")

    def test_published_name__is_kept_in_the_configuration(self, published: HubServer) -> None:
        assert StellarModel.from_pretrained("stellar-b16", **HEADS).config.name_or_path == "stellar-b16"

    def test_local_folder__wins_over_a_published_name(
        self, published: HubServer, pixel_model: StellarModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pixel_model.save_pretrained(tmp_path / "stellar-b16")
        monkeypatch.chdir(tmp_path)
        assert StellarModel.from_pretrained("stellar-b16").config.reconstruction_head == "pixel"
        assert not published.requests

    def test_altered_file__is_named_with_its_hash_and_loads_next_time(self, published: HubServer, cache: Path) -> None:
        published.altered[TOKENIZER.name] = bytes(len(published.files(TOKENIZER.repository)[TOKENIZER.name]))
        with pytest.raises(ValueError, match=rf"{TOKENIZER.name} .*SHA-256 [0-9a-f]{{64}}, expected"):
            StellarModel.from_pretrained("stellar-b16", **HEADS)
        published.altered.clear()
        assert StellarModel.from_pretrained("stellar-b16", **HEADS).tokenizer is not None

    def test_damaged_cache__is_named(self, published: HubServer, cache: Path) -> None:
        StellarModel.from_pretrained("stellar-b16", decoder=False, **HEADS)
        [pointer] = cache.rglob(CHECKPOINT)
        pointer.resolve().write_bytes(pointer.read_bytes()[:1000])
        with pytest.raises(ValueError, match=f"{CHECKPOINT} is damaged"):
            StellarModel.from_pretrained("stellar-b16", decoder=False, **HEADS)


@pytest.mark.usefixtures("client")
class TestRepository:
    def test_repository_of_another_type__is_refused(self, hub: HubServer) -> None:
        hub.add("user/vit", {"config.json": b'{"model_type": "vit"}', "model.safetensors": b""})
        with pytest.raises(ValueError, match="'stellar', got 'vit'"):
            StellarModel.from_pretrained("user/vit")

    def test_copy_of_the_originals__says_which_names_there_are(self, published: HubServer) -> None:
        published.add("user/copy", published.files("microsoft/STELLAR"))
        with pytest.raises(ValueError, match="stellar-b16, stellar-b24"):
            StellarModel.from_pretrained("user/copy")

    def test_missing_repository__is_named(self, hub: HubServer) -> None:
        with pytest.raises(OSError, match="user/nothing is not a local folder and is not a valid model identifier"):
            StellarModel.from_pretrained("user/nothing")

    def test_repository__loads_at_a_revision_with_a_token(
        self, hub: HubServer, pixel_model: StellarModel, tmp_path: Path
    ) -> None:
        pixel_model.save_pretrained(tmp_path / "model")
        files = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
        shutil.rmtree(tmp_path / "model")
        hub.add("user/repo", {"README.md": b""})
        hub.add("user/repo", files, branch="v1")
        hub.repositories["user/repo"].private = True
        loaded = StellarModel.from_pretrained("user/repo", revision="v1", token="hf_writer")
        assert loaded.config.hidden_size == pixel_model.config.hidden_size
        with pytest.raises(OSError, match="user/repo is not a local folder and is not a valid model identifier"):
            StellarModel.from_pretrained("user/repo", revision="v1", token="hf_reader", cache_dir=tmp_path / "other")


class TestNames:
    """Nothing of this asks the Hub."""

    @pytest.fixture(autouse=True)
    def _asks_nothing(self, _no_sockets: None) -> None:
        pass

    @pytest.mark.parametrize("cls", [StellarConfig, StellarModel, StellarImageProcessor])
    def test_original_repository__names_its_models(self, cls: Any) -> None:
        with pytest.raises(ValueError, match=r"'microsoft/STELLAR' .*stellar-b16, stellar-l16"):
            cls.from_pretrained("microsoft/STELLAR")

    @pytest.mark.parametrize("cls", [StellarConfig, StellarModel, StellarImageProcessor])
    def test_unknown_name__suggests_the_nearest(self, cls: Any) -> None:
        with pytest.raises(ValueError, match=r"'stellar-l61'.*mean 'stellar-l16'"):
            cls.from_pretrained("stellar-l61")

    def test_configuration_and_processor__of_a_published_name_need_no_file(self) -> None:
        config = StellarConfig.from_pretrained("stellar-h16")
        processor = StellarImageProcessor.from_pretrained("stellar-h16")
        assert (config.hidden_size, processor.patch_size) == (1280, 14)

    def test_processor_of_a_published_name__keeps_no_token_nor_other_options_of_the_download(
        self, tmp_path: Path
    ) -> None:
        options = {"token": "hf_secret", "cache_dir": "there", "local_files_only": True, "revision": "main"}
        processor = StellarImageProcessor.from_pretrained("stellar-b16", fit="pad", **options)
        processor.save_pretrained(tmp_path)
        saved = json.loads((tmp_path / "preprocessor_config.json").read_text())
        assert saved["fit"] == "pad"
        assert not options.keys() & saved.keys()

    def test_configuration_of_a_published_name__keeps_no_token(self) -> None:
        assert "hf_secret" not in StellarConfig.from_pretrained("stellar-b16", token="hf_secret").to_json_string()

    def test_original_file__loads(self, golden_dir: Path, original: StellarModel, images: Tensor) -> None:
        model = StellarModel.from_pretrained(
            golden_dir / "original-vq.safetensors", vqgan=golden_dir / "vqgan.bin", **HEADS
        )
        assert_same(model, original, images)

    def test_folder__loads_with_its_processor(self, original: StellarModel, images: Tensor, tmp_path: Path) -> None:
        original.save_pretrained(tmp_path / "model")
        assert_same(StellarModel.from_pretrained(tmp_path / "model"), original, images)
        assert StellarModel.from_pretrained(tmp_path / "model", decoder=False).decoder is None
        image = Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8))
        processor = StellarImageProcessor.from_pretrained(tmp_path / "model")
        assert processor(image)["pixel_values"].shape == (1, 3, 32, 32)

    def test_embedded_model__loads(self) -> None:
        assert StellarModel.from_pretrained("stellar-tiny").decoder is not None
        assert StellarImageProcessor.from_pretrained("stellar-tiny").patch_size == 8
