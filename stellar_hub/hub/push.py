"""Pushing a model to the Hub: check the license, check the repository's content, upload in one commit."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

from stellar_hub.hub.download import client_message
from stellar_hub.registry import MODELS

if TYPE_CHECKING:
    from stellar_hub.modeling import StellarPreTrainedModel

CARD_HEAD = re.compile(r"---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
LICENSE_LINE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)[\"']?[ \t]*$", re.MULTILINE)


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
    card = Path(name_or_path or "") / "README.md"
    if not name_or_path or not card.is_file():
        return None
    head = CARD_HEAD.match(card.read_text(errors="replace"))
    line = LICENSE_LINE.search(head[1]) if head else None
    return line[1] if line and line[1] != "unknown" else None


def base_model_of(name_or_path: str | None) -> str | None:
    """Returns the Hub repository that a model was loaded from, or None for a folder or a model in the package."""
    if not name_or_path or Path(name_or_path).exists():
        return None
    if name_or_path in MODELS:
        file = MODELS[name_or_path].file
        return file.repository if file else None
    return name_or_path


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
) -> Pushed:
    """Saves the model with processor, code and card, and uploads the folder in one commit.

    Args:
        model: Model to push.
        repo_id: Repository, such as "user/name"; it is created if it does not exist.
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

    Raises:
        ValueError: if no license is given or known, or the repository has other content.
        PermissionError: if the Hub does not allow it.
        OSError: if the Hub cannot be reached, or does not accept the upload for another reason.
    """
    license = (license or "").strip() or license_of(model.config.name_or_path)
    if not license:
        raise ValueError(
            "a model needs a license to be pushed: pass license= as the Hub spells it, such as mit, apache-2.0, "
            "cc-by-nc-4.0 or other"
        )
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(
            folder, license=license, name=repo_id, base_model=base_model_of(model.config.name_or_path)
        )
        if finish is not None:
            finish(Path(folder))
        files = {path.name: path.stat().st_size for path in sorted(Path(folder).iterdir())}
        try:
            if not replace:
                _refuse_other_content(api, repo_id, revision, model.config.model_type)
            if dry_run:
                return Pushed(f"{api.endpoint}/{repo_id}", files)
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
                delete_patterns="*" if replace else None,
            )
        except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: the client's, if an upload breaks off
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk failed, not the Hub
            if dry_run and not isinstance(error, HfHubHTTPError):
                # A dry run shows what would be sent, also without a network.
                return Pushed(f"{api.endpoint}/{repo_id} (not reached)", files)
            raise _push_error(repo_id, api.endpoint, error) from error
    return Pushed(str(done.commit_url), files)


def _refuse_other_content(api: HfApi, repo_id: str, revision: str | None, model_type: str) -> None:
    """Raises ValueError if a repository has other content than a STELLAR model."""
    try:
        names = set(api.list_repo_files(repo_id, revision=revision))
    except RepositoryNotFoundError:
        return
    if not names - {".gitattributes", "README.md"}:
        return
    try:
        config = Path(api.hf_hub_download(repo_id, "config.json", revision=revision)).read_text()
    except EntryNotFoundError:
        config = ""
    if re.search(rf'"model_type":\s*"{model_type}"', config):
        return
    shown = ", ".join(sorted(names)[:5])
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
    return OSError(f"{endpoint} did not accept {repo_id}: {client_message(error)}")
