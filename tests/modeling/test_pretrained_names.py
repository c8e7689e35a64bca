from pathlib import Path

import pytest

from stellar_hub.modeling import StellarConfig, StellarImageProcessor, StellarModel, pretrained_names
from stellar_hub.modeling.pretrained_names import is_path_alone, resolve_pretrained


class TestResolve:
    def test_embedded_name__is_its_folder(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        folder = Path(resolve_pretrained("stellar-tiny"))
        assert folder.is_absolute()
        assert folder.parts[-3:] == ("stellar_hub", "checkpoints", "stellar-tiny")

    def test_folder_of_the_same_name__wins(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "stellar-tiny").mkdir()
        assert resolve_pretrained("stellar-tiny") == "stellar-tiny"

    @pytest.mark.parametrize("name", ["user/repo", "stellar-b16"])
    def test_names_on_the_hub__are_unchanged(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
        monkeypatch.chdir(tmp_path)
        assert resolve_pretrained(name) == name

    def test_existing_path__is_unchanged(self, tmp_path: Path) -> None:
        assert resolve_pretrained(tmp_path) is tmp_path
        assert resolve_pretrained(str(tmp_path)) == str(tmp_path)

    def test_none__is_none(self) -> None:
        assert resolve_pretrained(None) is None

    def test_unknown_name__names_the_known(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=r"'stellar-tyny'.*mean 'stellar-tiny'"):
            resolve_pretrained("stellar-tyny")

    @pytest.mark.parametrize("name", ["/no/such/place", "./here", "~/models/tiny", "runs/one/last"])
    def test_missing_path__is_named(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError, match=rf"no such file or folder: {name}$"):
            resolve_pretrained(name)
        with pytest.raises(FileNotFoundError, match=r"no such file or folder: nothing$"):
            resolve_pretrained(Path("nothing"))

    @pytest.mark.parametrize(
        ("address", "message"),
        [
            ("https://huggingface.co/user/name", "pass its name, 'user/name'$"),
            ("https://huggingface.co/user/name/tree/main", "pass its name, 'user/name'$"),
            ("https://hf.co/user/my.name?library=timm", "pass its name, 'user/my.name'$"),
            ("http://www.huggingface.co/user/name/blob/v1/a.bin", "'user/name' and revision='v1'$"),
            ("https://huggingface.co/datasets/user/name", "is an address: pass the name of a Hub repository"),
            ("https://me:secret@example.com/name", r"'https://\*\*\*@example\.com/name' is an address"),
        ],
    )
    def test_address__says_what_to_pass(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, address: str, message: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=message):
            resolve_pretrained(address)

    @pytest.mark.parametrize(
        ("name", "expected"), [("name", False), ("user/name", False), ("a/b/c", True), ("/a", True)]
    )
    def test_is_path_alone__tells_repository_ids(self, name: str, expected: bool) -> None:
        assert is_path_alone(name) is expected


class TestWithoutTheLibrary:
    """In a pushed repository these files stand alone; names are then transformers' business."""

    @pytest.mark.parametrize("name", ["stellar-tiny", "whatever"])
    def test_names__are_unchanged(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(pretrained_names, "registry", None)
        assert resolve_pretrained(name) == name

    def test_extract__says_that_it_needs_the_library(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pretrained_names, "registry", None)
        with pytest.raises(ImportError, match="pip install stellar_hub"):
            pretrained_names.extract_features(None, "photos", ("S",))


class TestWithoutEntryPoints:
    """An editable install that is older than the checkout has the code, but not the entry points."""

    def test_published_name__says_how_to_install(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(pretrained_names, "entry_points", lambda **options: ())
        with pytest.raises(ImportError, match=r"stellar-b16.*pip install -e"):
            pretrained_names.convert_if_original("stellar-b16", None, True, {})
        assert pretrained_names.convert_if_original("stellar-tiny", None, True, {}) is None


class TestRegistered:
    """What the rooms above `modeling` give to it, as entry points of the installed library."""

    @pytest.mark.parametrize("name", ["convert_if_original", "embed_images", "extract_features", "push"])
    def test_function__is_found(self, name: str) -> None:
        assert pretrained_names.registered(name).__name__ == name


class TestClasses:
    @pytest.mark.parametrize("cls", [StellarConfig, StellarImageProcessor, StellarModel])
    def test_every_class__resolves_names(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cls: type[StellarConfig]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match="'stellar-tyny'"):
            cls.from_pretrained("stellar-tyny")
        with pytest.raises(FileNotFoundError, match="no such file or folder: /no/such/place"):
            cls.from_pretrained("/no/such/place")
