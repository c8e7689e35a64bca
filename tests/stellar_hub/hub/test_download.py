"""Published files through the real Hub client, from a local Hub."""

import hashlib
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import constants

from stellar_hub.hub.download import fetch, sha256_of, unreachable_message, verify
from stellar_hub.registry import HubFile
from tests.hub_server import HubServer

COMMIT = "6794be9a20fb9d3944c5bcc6003512a347fa518f"
OTHER_COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILE = HubFile("microsoft/STELLAR", "stellar-b16.safetensors", COMMIT, 483, "MIT")
CONTENT = bytes(range(256)) * 4096  # 1 MiB
ALTERED = CONTENT[:-1] + b"\0"

pytestmark = pytest.mark.usefixtures("client")


@pytest.fixture(autouse=True)
def _holds_the_file(hub: HubServer) -> None:
    hub.add(FILE.repository, {FILE.name: CONTENT, "notes.txt": b"text"}, COMMIT)


@pytest.fixture
def closed_endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address where nothing answers."""
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield endpoint


def content_of(folder: Path) -> list[bytes]:
    """What the cache holds of weights, whole or in part."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 1000]


class TestFetch:
    def test_fetch__puts_the_file_into_the_clients_cache(self, hub: HubServer, cache: Path) -> None:
        path = fetch(FILE)
        assert path == cache / "models--microsoft--STELLAR" / "snapshots" / COMMIT / FILE.name
        assert path.read_bytes() == CONTENT
        assert hub.count(FILE.name) == 1

    def test_fetch__asks_nothing_for_a_cached_file(self, hub: HubServer) -> None:
        first = fetch(FILE)
        hub.requests.clear()
        assert fetch(FILE) == first
        assert not hub.requests

    def test_fetch__takes_a_cached_file_offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        first = fetch(FILE)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert fetch(FILE) == first

    def test_fetch__asks_nothing_with_local_files_only(self, hub: HubServer) -> None:
        with pytest.raises(OSError, match=r"could not download stellar-b16.safetensors \(483 MB\) .* not in the cache"):
            fetch(FILE, local_files_only=True)
        assert not hub.requests

    def test_fetch__asks_nothing_in_offline_mode(self, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(OSError, match=r"could not download stellar-b16.safetensors .* offline mode is enabled"):
            fetch(FILE)
        assert not hub.requests

    def test_fetch__downloads_again_when_forced(self, hub: HubServer) -> None:
        fetch(FILE)
        fetch(FILE, force_download=True)
        assert hub.count(FILE.name) == 2

    def test_fetch__honours_cache_dir(self, cache: Path, tmp_path: Path) -> None:
        path = fetch(FILE, cache_dir=tmp_path / "elsewhere")
        assert path.is_relative_to(tmp_path / "elsewhere")
        assert not content_of(cache)

    def test_fetch__honours_token(self, hub: HubServer) -> None:
        hub.repositories[FILE.repository].private = True
        hub.owners["hf_insider"] = "microsoft"
        assert fetch(FILE, token="hf_insider").read_bytes() == CONTENT

    def test_fetch__honours_revision(self, hub: HubServer) -> None:
        hub.add(FILE.repository, {FILE.name: CONTENT[::-1]}, OTHER_COMMIT, branch="newer")
        assert fetch(FILE, revision="newer").read_bytes() == CONTENT[::-1]
        assert fetch(FILE).read_bytes() == CONTENT


class TestInterruptedDownload:
    def test_fetch__resumes_where_the_connection_broke(self, hub: HubServer) -> None:
        hub.cuts[FILE.name] = [300_000]
        assert fetch(FILE).read_bytes() == CONTENT
        ranges = [request.range for request in hub.requests if request.method == "GET"]
        assert ranges == [None, f"bytes={300_000 // (1 << 16) * (1 << 16)}-"]

    def test_fetch__gives_up_and_leaves_nothing_that_passes_for_the_file(self, hub: HubServer, cache: Path) -> None:
        hub.cuts[FILE.name] = [300_000] + [0] * 20
        with pytest.raises(OSError, match=r"could not download stellar-b16.safetensors .* of microsoft/STELLAR"):
            fetch(FILE)
        assert not list(cache.rglob(FILE.name))

    def test_fetch__completes_at_the_next_call(self, hub: HubServer) -> None:
        hub.cuts[FILE.name] = [300_000] + [0] * 20
        with pytest.raises(OSError, match="could not download"):
            fetch(FILE)
        hub.cuts.clear()
        assert fetch(FILE).read_bytes() == CONTENT


class TestAlteredFile:
    def test_fetch__refuses_content_that_differs_from_the_hubs_own_hash(self, hub: HubServer) -> None:
        hub.altered[FILE.name] = ALTERED
        arrived, wanted = hashlib.sha256(ALTERED).hexdigest(), hashlib.sha256(CONTENT).hexdigest()
        with pytest.raises(ValueError, match=f"{FILE.name} .*SHA-256 {arrived}, expected {wanted}"):
            fetch(FILE)

    def test_fetch__refuses_content_that_differs_from_the_registry(self) -> None:
        with pytest.raises(ValueError, match=f"SHA-256 {hashlib.sha256(CONTENT).hexdigest()}, expected {'0' * 64}"):
            fetch(replace(FILE, sha256="0" * 64))

    @pytest.mark.parametrize("sha256", [None, "0" * 64])
    def test_fetch__leaves_nothing_bad_in_the_cache(self, hub: HubServer, cache: Path, sha256: str | None) -> None:
        hub.altered[FILE.name] = ALTERED
        with pytest.raises(ValueError, match="SHA-256"):
            fetch(replace(FILE, sha256=sha256))
        assert not content_of(cache)
        hub.altered.clear()
        assert fetch(FILE).read_bytes() == CONTENT

    def test_fetch__refuses_what_is_cut_short_without_the_connection_breaking(self, hub: HubServer) -> None:
        hub.altered[FILE.name] = CONTENT[:-1000]
        with pytest.raises(OSError, match=r"could not download stellar-b16.safetensors .* size"):
            fetch(FILE)

    def test_fetch__accepts_the_registrys_hash(self) -> None:
        assert fetch(replace(FILE, sha256=hashlib.sha256(CONTENT).hexdigest())).read_bytes() == CONTENT

    def test_fetch__applies_the_registrys_hash_to_its_own_revision_alone(self, hub: HubServer) -> None:
        hub.add(FILE.repository, {FILE.name: ALTERED}, OTHER_COMMIT, branch="newer")
        pinned = replace(FILE, sha256=hashlib.sha256(CONTENT).hexdigest())
        assert fetch(pinned, revision=OTHER_COMMIT).read_bytes() == ALTERED

    def test_fetch__checks_what_is_downloaded_anew(self, hub: HubServer) -> None:
        fetch(FILE)
        hub.altered[FILE.name] = ALTERED
        with pytest.raises(ValueError, match="SHA-256"):
            fetch(FILE, force_download=True)

    def test_fetch__checks_the_newer_commit_of_a_branch(self, hub: HubServer) -> None:
        fetch(FILE, revision="main")
        hub.add(FILE.repository, {FILE.name: CONTENT[::-1]}, OTHER_COMMIT)
        hub.altered[FILE.name] = ALTERED
        with pytest.raises(ValueError, match="SHA-256"):
            fetch(FILE, revision="main")

    def test_fetch__takes_a_small_file_which_the_hub_has_no_sha256_of(self) -> None:
        assert fetch(replace(FILE, name="notes.txt")).read_bytes() == b"text"


class TestUnreachable:
    def test_fetch__says_what_was_tried_without_a_network(self, closed_endpoint: str) -> None:
        with pytest.raises(OSError, match="could not download") as caught:
            fetch(FILE)
        message = str(caught.value)
        for part in (FILE.name, "483 MB", FILE.repository, COMMIT[:12], closed_endpoint, "not in the cache"):
            assert part in message

    def test_fetch__says_how_to_work_offline(self, closed_endpoint: str) -> None:
        with pytest.raises(
            OSError, match=rf"`hf download {FILE.repository} {FILE.name} --revision {COMMIT}` .*HF_HOME"
        ):
            fetch(FILE)

    def test_fetch__says_that_the_hub_is_down(self, hub: HubServer) -> None:
        hub.refuses = "/"
        with pytest.raises(OSError, match=f"could not download .* from {re.escape(hub.endpoint)}"):
            fetch(FILE)

    def test_fetch__names_an_unknown_revision(self) -> None:
        with pytest.raises(OSError, match=r"stellar-b16.safetensors .* at nope from .*Revision Not Found"):
            fetch(FILE, revision="nope")

    def test_fetch__names_a_missing_file(self) -> None:
        with pytest.raises(OSError, match=r"missing.safetensors .*Entry Not Found"):
            fetch(replace(FILE, name="missing.safetensors"))

    @pytest.mark.parametrize("token", [False, "hf_reader"])
    def test_fetch__names_a_repository_it_may_not_read(self, hub: HubServer, token: str | bool) -> None:
        hub.repositories[FILE.repository].private = True
        with pytest.raises(OSError, match=r"of microsoft/STELLAR .*Repository Not Found"):
            fetch(FILE, token=token)

    def test_fetch__cannot_be_forced_without_a_network(self, closed_endpoint: str) -> None:
        with pytest.raises(OSError, match=f"could not download .* from {re.escape(closed_endpoint)}"):
            fetch(FILE, force_download=True)

    def test_fetch__blames_a_full_or_forbidden_disk_not_the_network(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(OSError, match=r"Not a directory|File exists") as caught:
            fetch(FILE, cache_dir=tmp_path / "file")
        assert "could not download" not in str(caught.value)

    def test_unreachable_message__names_the_error_that_says_nothing(self) -> None:
        assert "TimeoutError" in unreachable_message(FILE, COMMIT, TimeoutError())


class TestVerify:
    def test_verify__removes_a_file_that_differs(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(CONTENT)
        with pytest.raises(ValueError, match="SHA-256"):
            verify(tmp_path / "file", "0" * 64)
        assert not (tmp_path / "file").exists()

    def test_verify__keeps_a_file_whose_hash_is_not_known(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(CONTENT)
        verify(tmp_path / "file", None)
        assert (tmp_path / "file").exists()

    def test_sha256_of__is_that_of_the_content(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_bytes(CONTENT)
        assert sha256_of(tmp_path / "file") == hashlib.sha256(CONTENT).hexdigest()
