"""Pushing a model to the Hub: check the license, check the repository's content, upload in one commit."""

import logging
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError, HTTPError, LocalTokenNotFoundError, RepositoryNotFoundError

from stellar_hub.hub.download import client_message
from stellar_hub.modeling.card_files import card_of, carry_card
from stellar_hub.modeling.model_card import CARD_HEAD, is_generated, read_card
from stellar_hub.modeling.safe_paths import read_bounded
from stellar_hub.modeling.safe_text import mask_secrets, one_line
from stellar_hub.old_names import did_you_mean
from stellar_hub.registry import MODELS, embedded_folder

if TYPE_CHECKING:
    from stellar_hub.modeling import StellarPreTrainedModel

logger = logging.getLogger(__name__)

# Licenses as the Hub spells them; the client has no list. The Hub decides: another one is a warning, not an error.
LICENSES = (
    *("afl-3.0", "agpl-3.0", "apache-2.0", "apple-amlr", "apple-ascl", "artistic-2.0", "bigcode-openrail-m"),
    *("bigscience-bloom-rail-1.0", "bigscience-openrail-m", "bsd", "bsd-2-clause", "bsd-3-clause"),
    *("bsd-3-clause-clear", "bsl-1.0", "c-uda", "cc", "cc-by-2.0", "cc-by-2.5", "cc-by-3.0", "cc-by-4.0"),
    *("cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0"),
    *("cc-by-nc-sa-3.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc0-1.0"),
    *(
        "cdla-permissive-1.0",
        "cdla-permissive-2.0",
        "cdla-sharing-1.0",
        "creativeml-openrail-m",
        "deepfloyd-if-license",
    ),
    *("ecl-2.0", "epl-1.0", "epl-2.0", "etalab-2.0", "eupl-1.1", "eupl-1.2", "gemma", "gfdl", "gpl", "gpl-2.0"),
    *("gpl-3.0", "h-research", "intel-research", "isc", "lgpl", "lgpl-2.1", "lgpl-3.0", "lgpl-lr", "llama2", "llama3"),
    *("llama3.1", "llama3.2", "llama3.3", "llama4", "lppl-1.3c", "mit", "mpl-2.0", "ms-pl", "ncsa", "odbl", "odc-by"),
    *("ofl-1.1", "open-mdw", "openrail", "openrail++", "osl-3.0", "other", "pddl", "postgresql", "unknown"),
    *("unlicense", "wtfpl", "zlib"),
)
LICENSE_LINE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)[\"']?[ \t]*$", re.MULTILINE)
BASE_MODEL_LINE = re.compile(r"^base_model:[ \t]*[\"']?([\w.+-]+/[\w.+-]+)[\"']?[ \t]*$", re.MULTILINE)
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


class Pushed(NamedTuple):
    """The result of a push or of a dry run.

    Attributes:
        url: Address of the commit, or of the repository after a dry run.
        files: Size in bytes of each uploaded file, by name.
    """

    url: str
    files: dict[str, int]


def license_of(name_or_path: str | None) -> str | None:
    """Returns the license of the weights that a model was loaded from, or None if it is not known."""
    if name_or_path in MODELS:
        return MODELS[name_or_path].license.lower()
    card = card_of(name_or_path)
    found = CARD_HEAD.match(card) if card else None
    line = LICENSE_LINE.search(found[1]) if found else None
    return line[1] if line and line[1] != "unknown" else None


def base_model_of(name_or_path: str | os.PathLike[str] | None) -> str | None:
    """Returns the Hub repository that weights come from, or None if it is not known.

    Args:
        name_or_path: Name that a model was loaded by: a published name, a repository, "timm:NAME", or a folder, whose
            card may name the repository. Models in the package have none.
    """
    text = os.fspath(name_or_path or "")
    if text in MODELS and not Path(text).exists():
        file = MODELS[text].file
        return file.repository if file else None
    if Path(text).is_dir():
        found = CARD_HEAD.match(card_of(text) or "")
        line = BASE_MODEL_LINE.search(found[1]) if found else None
        return line[1] if line else None
    if text.startswith("timm:"):
        return f"timm/{text.removeprefix('timm:')}"
    return text if REPOSITORY.fullmatch(text) and not Path(text).exists() else None


def push(
    model: "StellarPreTrainedModel",
    repo_id: str,
    *,
    license: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload STELLAR model",
    create_pr: bool = False,
    dry_run: bool = False,
    replace: bool = False,
    finish: Callable[[Path], None] | None = None,
    card_folder: str | os.PathLike[str] | None = None,
) -> Pushed:
    """Saves the model with processor, code and card, and uploads the folder in one commit.

    Args:
        model: Model to push.
        repo_id: Repository, such as "user/name"; it is created if it does not exist. The user of the token owns it if
            no owner is named.
        license: License of the weights as the Hub spells it; None means the license of the checkpoint that the model
            was loaded from, if it is known.
        private: Whether a new repository is private; None means the Hub's default.
        token: Access token; None or True means the one of `hf auth login`.
        revision: Branch to commit to; None means the main branch.
        commit_message: Message of the commit.
        create_pr: Whether to open a pull request instead of a commit to the branch.
        dry_run: Whether to stop before anything is created or sent. A dry run also works without a network.
        replace: Whether to overwrite a repository that has other content, and delete its other files.
        finish: Function that may change the saved folder before the upload, for instance add a section to the card.
        card_folder: Folder whose card and its images go along. None means the folder that the model was loaded from.

    A card that stands in that folder, or in the repository, is kept: only our sections and lines are renewed.

    Raises:
        ValueError: if no license or owner is given or known, or the repository has other content.
        PermissionError: if the Hub does not allow it.
        OSError: if the Hub cannot be reached, or does not accept the upload for another reason.
    """
    license = (license or "").strip() or license_of(model.config.name_or_path)
    if not license:
        raise ValueError(
            "a model needs a license to be pushed: pass license= as the Hub spells it, such as mit, apache-2.0, "
            "cc-by-nc-4.0 or other"
        )
    if license.lower() not in LICENSES:
        hint = did_you_mean(license.lower(), LICENSES) or '; for a license of your own, use "other"'
        logger.warning("the Hub may not know the license %s%s", one_line(repr(license), 100), hint)
    api = HfApi(token=token)
    repo_id = _with_owner(api, repo_id, dry_run)
    source = card_folder or model.config.name_or_path
    with _hub_errors(repo_id, api.endpoint):
        there = _look_there(api, repo_id, revision, dry_run)
        if not replace:
            _refuse_other_content(api, repo_id, revision, there.names, model.config.model_type)
        standing = None if replace or "README.md" not in there.names else _card_there(api, repo_id, revision)
    with tempfile.TemporaryDirectory() as folder:
        # A classifier with a new head is another model than that of the card where its encoder came from.
        own = card_folder if model._needs_new_card else embedded_folder(str(source)) or source
        _start_card(Path(folder), own, standing)
        model.save_pretrained(folder, license=license, name=repo_id, base_model=base_model_of(source))
        if finish is not None:
            finish(Path(folder))
        files = _sizes(Path(folder))
        if dry_run:
            return Pushed(_address(api, repo_id, there), files)
        with _hub_errors(repo_id, api.endpoint):
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
                delete_patterns="*" if replace else None,
            )
    return Pushed(mask_secrets(str(done.commit_url)), files)


class _There(NamedTuple):
    """What is in a repository: whether the Hub was reached, and the names of the files."""

    reached: bool
    names: set[str]


def _with_owner(api: HfApi, repo_id: str, dry_run: bool) -> str:
    """Returns a repository with its owner: the user of the token if none is named.

    A dry run that does not learn the user returns the repository without an owner.

    Raises:
        ValueError: if there is no token.
    """
    if "/" in repo_id:
        return repo_id
    try:
        with _hub_errors(repo_id, api.endpoint):
            return f"{api.whoami()['name']}/{repo_id}"
    except OSError as error:
        if dry_run:
            return repo_id
        if not isinstance(error.__cause__, LocalTokenNotFoundError):
            raise
        raise ValueError(
            f"the repository {one_line(repo_id)} needs an owner: write USER/{one_line(repo_id)}, or log in with "
            "`hf auth login`"
        ) from error


def _address(api: HfApi, repo_id: str, there: _There) -> str:
    """Returns the address of a repository after a dry run, and what is not known about it."""
    endpoint = mask_secrets(api.endpoint)
    if "/" not in repo_id:
        return f"{endpoint}/USER/{repo_id}, where USER is the user of your token (not reached)"
    return f"{endpoint}/{repo_id}{'' if there.reached else ' (not reached)'}"


@contextmanager
def _hub_errors(repo_id: str, endpoint: str) -> Iterator[None]:
    """Turns the errors of the Hub client into errors for the user. Those of the disk stay as they are."""
    try:
        yield
    except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: the client's, if an upload breaks off
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _push_error(one_line(repo_id), mask_secrets(endpoint), error) from error


def _look_there(api: HfApi, repo_id: str, revision: str | None, dry_run: bool) -> _There:
    """Returns what is in a repository. A dry run goes on without a network, or without an owner."""
    if "/" not in repo_id:
        return _There(False, set())
    try:
        return _There(True, set(api.list_repo_files(repo_id, revision=revision)))
    except RepositoryNotFoundError:
        return _There(True, set())
    except (HTTPError, OSError) as error:
        if not dry_run or isinstance(error, HfHubHTTPError):
            raise
        return _There(False, set())


def _card_there(api: HfApi, repo_id: str, revision: str | None) -> str | None:
    """Returns the card of the repository."""
    return read_card(api.hf_hub_download(repo_id, "README.md", revision=revision))


def _start_card(folder: Path, source: str | os.PathLike[str] | None, standing: str | None) -> None:
    """Copies the card to renew into a new folder: that of the model with its images, or that of the repository.

    The repository's goes first if the model's has nothing but what the library wrote.
    """
    own = card_of(source)
    if standing is not None and (own is None or is_generated(own)):
        (folder / "README.md").write_bytes(standing.encode(errors="surrogateescape"))
    else:
        carry_card(source, folder)


def _sizes(folder: Path) -> dict[str, int]:
    """Returns the size of each file below a folder by its name."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def _refuse_other_content(api: HfApi, repo_id: str, revision: str | None, names: set[str], model_type: str) -> None:
    """Raises ValueError if a repository has other content than a STELLAR model."""
    if not names - {".gitattributes", "README.md"}:
        return
    config = ""
    if "config.json" in names:
        path = api.hf_hub_download(repo_id, "config.json", revision=revision)
        config = read_bounded(path, "config_bytes").decode(errors="replace")
    if re.search(rf'"model_type":\s*"{model_type}"', config):
        return
    shown = one_line(", ".join(sorted(names)[:5]))
    raise ValueError(
        f"the repository {repo_id} has other content ({shown}{', ...' if len(names) > 5 else ''}): "
        "push to another repository, or pass replace=True"
    )


def _push_error(repo_id: str, endpoint: str, error: Exception) -> Exception:
    """Returns the error to raise if the Hub refused a push or could not be reached."""
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    status = answer.response.status_code if isinstance(answer, HfHubHTTPError) else None
    if status in (401, 403):
        return PermissionError(
            f"{endpoint} does not let you write to {repo_id} ({status}): log in with `hf auth login` and a token that "
            "has write access, and push to a namespace of yours"
        )
    if status is None and any(isinstance(each, HTTPError | ConnectionError) for each in (error, error.__cause__)):
        return OSError(
            f"{endpoint} was not reached, so nothing was sent to {repo_id}: {client_message(error)} Check the network, "
            "and HF_ENDPOINT and HF_HUB_OFFLINE if they are set; a dry run works without a network"
        )
    return OSError(f"{endpoint} did not accept {repo_id}: {client_message(error)}")
