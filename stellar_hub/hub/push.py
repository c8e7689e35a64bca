"""Pushing a model: licence first, then a look at what is there, then one commit."""

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

from stellar_hub.registry import MODELS

if TYPE_CHECKING:
    from stellar_hub.modeling import StellarPreTrainedModel

LICENCE_LINE = re.compile(r"^license:\s*(\S+)\s*$", re.MULTILINE)


class Pushed(NamedTuple):
    """What a push did, or would do.

    Attributes:
        url: Of the commit; of the repository after a dry run.
        files: Names and bytes.
    """

    url: str
    files: dict[str, int]


def licence_of(name_or_path: str) -> str | None:
    """The licence of the weights a model was loaded from, where it is on record."""
    if name_or_path in MODELS:
        return MODELS[name_or_path].licence.lower()
    card = Path(name_or_path) / "README.md"
    if card.is_file() and (match := LICENCE_LINE.search(card.read_text(errors="replace"))):
        return None if match[1] in ("unknown", "''", '""') else match[1]
    return None


def push(
    model: "StellarPreTrainedModel",
    repo_id: str,
    *,
    licence: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str = "Upload STELLAR model",
    create_pr: bool = False,
    dry_run: bool = False,
    replace: bool = False,
) -> Pushed:
    """Save the model with processor, code and card, and upload the folder in one commit.

    Args:
        model: What to push.
        repo_id: "user/name".
        licence: As the Hub spells it; None takes that of the weights it was loaded from.
        private: For a new repository; None leaves it to the Hub.
        token: As for the Hub client.
        revision: Branch.
        commit_message: Its message.
        create_pr: Whether to open a pull request instead.
        dry_run: Whether to stop before anything is created or sent.
        replace: Whether a repository that holds something else may be overwritten.

    Raises:
        ValueError: if no licence is given or on record, or the repository holds another kind of model.
        PermissionError: if the Hub refuses.
    """
    licence = (licence or "").strip() or licence_of(model.config.name_or_path)
    if not licence:
        raise ValueError(
            "a model is not pushed without a licence: pass license=, as the Hub spells it (mit, apache-2.0, "
            "cc-by-nc-4.0, other, ...)"
        )
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, license=licence, name=repo_id)
        files = {path.name: path.stat().st_size for path in sorted(Path(folder).iterdir())}
        try:
            if not replace:
                refuse_other_content(api, repo_id, model.config.model_type)
            if dry_run:
                return Pushed(f"{api.endpoint}/{repo_id}", files)
            api.create_repo(repo_id, private=private, exist_ok=True)
            done = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
            )
        except HfHubHTTPError as error:
            raise refusal(repo_id, api.endpoint, error) from error
    return Pushed(str(done.commit_url), files)


def refuse_other_content(api: HfApi, repo_id: str, model_type: str) -> None:
    """An existing repository may be empty or hold a STELLAR model, nothing else."""
    try:
        names = set(api.list_repo_files(repo_id))
    except RepositoryNotFoundError:
        return
    if not names - {".gitattributes", "README.md"}:
        return
    try:
        config = Path(api.hf_hub_download(repo_id, "config.json")).read_text()
    except EntryNotFoundError:
        config = ""
    if re.search(rf'"model_type":\s*"{model_type}"', config):
        return
    shown = ", ".join(sorted(names)[:5])
    raise ValueError(
        f"the repository {repo_id} holds something else ({shown}{', ...' if len(names) > 5 else ''}): "
        "push to another one, or pass replace=True"
    )


def refusal(repo_id: str, endpoint: str, error: HfHubHTTPError) -> Exception:
    """The Hub's refusal in the user's terms."""
    status = error.response.status_code if error.response is not None else None
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if status in (401, 403):
        return PermissionError(
            f"{endpoint} refuses to write to {repo_id} ({status}): log in with `hf auth login`, with a token that may "
            "write, and push to a namespace that is yours"
        )
    return OSError(f"{endpoint} did not take {repo_id}: {reason}")
