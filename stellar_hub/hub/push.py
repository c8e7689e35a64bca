"""Pushing a model: license first, then a look at what is there, then one commit."""

import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HTTPError, RepositoryNotFoundError

from stellar_hub.hub.download import reason_of
from stellar_hub.registry import MODELS

if TYPE_CHECKING:
    from stellar_hub.modeling import StellarPreTrainedModel

CARD_HEAD = re.compile(r"---\n(.*?)^---$", re.DOTALL | re.MULTILINE)
LICENSE_LINE = re.compile(r"^license:[ \t]*[\"']?([\w.+-]+)[\"']?[ \t]*$", re.MULTILINE)


class Pushed(NamedTuple):
    """What a push did, or would do.

    Attributes:
        url: Of the commit; of the repository after a dry run.
        files: Names and bytes.
    """

    url: str
    files: dict[str, int]


def license_of(name_or_path: str | None) -> str | None:
    """The license of the weights a model was loaded from, where it is on record."""
    if name_or_path in MODELS:
        return MODELS[name_or_path].license.lower()
    card = Path(name_or_path or "") / "README.md"
    if not name_or_path or not card.is_file():
        return None
    head = CARD_HEAD.match(card.read_text(errors="replace"))
    line = LICENSE_LINE.search(head[1]) if head else None
    return line[1] if line and line[1] != "unknown" else None


def base_model_of(name_or_path: str | None) -> str | None:
    """The repository of the weights a model was loaded from, for its card; None for a folder or the embedded model."""
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
    """Save the model with processor, code and card, and upload the folder in one commit.

    Args:
        model: What to push.
        repo_id: "user/name".
        license: As the Hub spells it; None takes that of the weights it was loaded from.
        private: For a new repository; None leaves it to the Hub.
        token: As for the Hub client.
        revision: Branch.
        commit_message: Its message.
        create_pr: Whether to open a pull request instead.
        dry_run: Whether to stop before anything is created or sent; a Hub that cannot be reached is no error then.
        replace: Whether what the repository holds may be overwritten, its other files being deleted.
        finish: Adds to the saved folder before it is sent: a section to the card, images beside it.

    Raises:
        ValueError: if no license is given or on record, or the repository holds another kind of model.
        PermissionError: if the Hub refuses.
        OSError: if the Hub cannot be reached, or does not take it for another reason.
    """
    license = (license or "").strip() or license_of(model.config.name_or_path)
    if not license:
        raise ValueError(
            "a model is not pushed without a license: pass license=, as the Hub spells it (mit, apache-2.0, "
            "cc-by-nc-4.0, other, ...)"
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
                refuse_other_content(api, repo_id, revision, model.config.model_type)
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
        except (HTTPError, OSError, RuntimeError) as error:  # RuntimeError: the client's, of a file that broke off
            if isinstance(error, OSError) and error.errno is not None:
                raise  # the disk's fault
            if dry_run and not isinstance(error, HfHubHTTPError):
                # Without a network it says what would be sent, and cannot say whether the Hub would take it.
                return Pushed(f"{api.endpoint}/{repo_id} (not reached)", files)
            raise refusal(repo_id, api.endpoint, error) from error
    return Pushed(str(done.commit_url), files)


def refuse_other_content(api: HfApi, repo_id: str, revision: str | None, model_type: str) -> None:
    """An existing repository may be empty or hold a STELLAR model, nothing else."""
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
        f"the repository {repo_id} holds something else ({shown}{', ...' if len(names) > 5 else ''}): "
        "push to another one, or pass replace=True"
    )


def refusal(repo_id: str, endpoint: str, error: Exception) -> Exception:
    """The Hub's refusal, or what kept it from answering, in the user's terms."""
    answer = error if isinstance(error, HfHubHTTPError) else error.__cause__
    status = answer.response.status_code if isinstance(answer, HfHubHTTPError) else None
    if status in (401, 403):
        return PermissionError(
            f"{endpoint} refuses to write to {repo_id} ({status}): log in with `hf auth login`, with a token that may "
            "write, and push to a namespace that is yours"
        )
    return OSError(f"{endpoint} did not take {repo_id}: {reason_of(error)}")
