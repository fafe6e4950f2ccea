"""Sharing directions: on the Hugging Face Hub, or in a local folder of the same layout.

    push(direction, "user/slow-smolvla", licence="apache-2.0")      # a Hub repository (private unless asked otherwise)
    push(direction, "./slow")                                       # a local folder
    slow = pull("user/slow-smolvla", expect_model=policy)

Layout: `direction.safetensors` (see `steer_agents.artifacts`) and `README.md`, a model card written from the artifact's
header. A place is local if it begins with ".", "/" or "~", is a `Path`, or exists; anything else is a repository id. The
checksum inside the artifact is verified before pushing and after pulling; nothing that was downloaded is executed.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from policies.errors import BadArtifact, BadInput, HubError
from steer_agents import artifacts
from steer_agents.direction import STATISTICS, Direction
from steer_agents.runs import write_bytes, write_text
from steer_agents.strength import Strength

FILENAME = "direction.safetensors"
CARD = "README.md"
_MARK = "library_name: steer-agents"
_LICENCES = ("apache-2.0", "mit", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "openrail")
"""Licences that the Hub knows by this identifier; any other text is shown as "other"."""


class HubAPI(Protocol):
    """The part of `huggingface_hub.HfApi` that is used here."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> Any: ...

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None) -> Any: ...


def push(
    direction: Direction | str | Path,
    destination: str | Path,
    *,
    filename: str = FILENAME,
    licence: str | None = None,
    strengths_tried: Sequence[Strength | float] | None = None,
    base_model: str | None = None,
    private: bool = True,
    message: str = "Add a direction",
    replace_card: bool = False,
    api: HubAPI | None = None,
) -> str | Path:
    """Write an artifact and its model card to a Hub repository or a local folder; both are made if need be.

    Args:
        direction: a direction, or the path of an artifact, which is copied byte by byte.
        destination: "user/name", or a local folder (see the module's docstring).
        filename: name of the artifact there.
        licence, strengths_tried: written into the artifact, see `artifacts.save`; not with a path, whose file is final.
        base_model: Hub id of the model it was found on, for the card (the artifact only knows the model's fingerprint).
        private: whether a newly made repository is private; an existing one stays as it is.
        message: commit message on the Hub.
        replace_card: replace a README.md that this function did not write.
        api: stands in for `huggingface_hub.HfApi()`.
    Returns:
        The repository id, or the local path of the artifact.

    Raises:
        BadArtifact: the path is no valid artifact.
        BadInput: a bad name, or the destination has a README.md of its own.
        HubError: no token, no connection, no permission; the message says what to do.
    """
    _check_filename(filename)
    folder = _local(destination)
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / filename
        if isinstance(direction, Direction):
            artifacts.save(direction, staged, licence, strengths_tried)
        else:
            if licence is not None or strengths_tried is not None:
                raise BadInput(
                    "push: licence and strengths_tried are part of the artifact, which is final when given as a path. Push "
                    "artifacts.load(path) instead to write it anew."
                )
            artifacts.read_header(direction)
            write_bytes(staged, Path(direction).expanduser().read_bytes())
        name = str(destination) if folder is None else f"./{folder.resolve().name}"
        card = model_card(staged, name, base_model)
        if folder is not None:
            if (folder / CARD).exists() and not replace_card:
                _check_card((folder / CARD).read_text(encoding="utf-8"), destination)
            written = write_bytes(folder / filename, staged.read_bytes())
            write_text(folder / CARD, card)
            return written
        write_text(staged.parent / CARD, card)
        repo_id, api = str(destination), api or _default_api()
        with explained("push to", repo_id):
            api.create_repo(repo_id, private=private, exist_ok=True)
            present = None if replace_card else _card_of(api, repo_id)
        if present is not None:
            _check_card(present, destination)
        with explained("push to", repo_id):
            api.upload_folder(repo_id=repo_id, folder_path=temporary, commit_message=message)
        return repo_id


def pull(
    source: str | Path,
    filename: str = FILENAME,
    revision: str | None = None,
    *,
    expect_model: Any = None,
    allow_other_model: bool = False,
    api: HubAPI | None = None,
) -> Direction:
    """Load a direction from a Hub repository, a local folder or a local file.

    Args:
        source: "user/name", a local folder, or a local artifact.
        filename: name of the artifact there.
        revision: branch, tag or commit on the Hub; None is the default branch.
        expect_model, allow_other_model: see `artifacts.load`.
        api: stands in for `huggingface_hub.HfApi()`.

    Raises:
        BadArtifact, NonFinite, WrongModel: see `artifacts.load`.
        BadInput: a bad name, or a revision of a local folder.
        HubError: no such repository, file or revision, or no connection; the message says what to do.
    """
    path = download(source, filename, revision, api=api)
    return artifacts.load(path, expect_model, allow_other_model)


def download(
    source: str | Path, filename: str = FILENAME, revision: str | None = None, *, api: HubAPI | None = None
) -> Path:
    """The local path of an artifact, fetched into the Hub's cache if need be. Arguments and errors as for `pull`."""
    _check_filename(filename)
    place = _local(source)
    if place is None:
        repo_id = str(source)
        with explained("pull from", repo_id):
            return Path((api or _default_api()).hf_hub_download(repo_id, filename, revision=revision))
    if revision is not None:
        raise BadInput(f"pull: revision={revision!r} only means something on the Hub; {source} is local. Leave it out.")
    path = place if place.is_file() else place / filename
    if not path.is_file():
        there = sorted(file.name for file in place.glob("*.safetensors")) if place.is_dir() else []
        raise BadArtifact(
            f"pull: there is no {filename!r} in {place}; it has {', '.join(there) or 'no artifacts'}. Pass filename=... or "
            "another folder."
        )
    return path


def model_card(path: str | Path, name: str, base_model: str | None = None) -> str:
    """The text of a model card (Markdown with the Hub's YAML head) for an artifact.

    Args:
        path: the artifact.
        name: where it can be pulled from.
        base_model: Hub id of the model it was found on, if known.
    """
    header = artifacts.read_header(path)
    filename = Path(path).name
    licence = str(header["licence"])
    known = licence.lower() in _LICENCES
    head = {
        "license": licence.lower() if known else "other",
        **({} if base_model is None else {"base_model": base_model}),
        "tags": ["activation-steering", "steering-vector", "steer-agents"],
    }
    argument = "" if filename == FILENAME else f", filename={filename!r}"
    provenance = {
        "method": header["method"],
        "site": json.dumps(header["site"]),
        "data fingerprint": header["data"],
        "seed": header["seed"],
        "strengths tried": json.dumps(header["strengths_tried"]),
        "licence": licence,
        "written": header["created"],
        "with": ", ".join(f"{library} {version}" for library, version in header["versions"].items()),
    }
    rows = [
        [key, dtype, "x".join(map(str, shape)), *(_number(header["statistics"].get(key, {}), s) for s in STATISTICS)]
        for key, dtype, shape in header["tensors"]
    ]
    return "\n".join(
        [
            "---",
            _MARK,
            *(f"{key}: {json.dumps(value)}" for key, value in head.items()),
            "---",
            "",
            f"# {_cell(name)}",
            "",
            "A direction for steering a policy's activations at run time, made and read by steer-agents. It only fits the model",
            "below, which is checked by fingerprint when it is used.",
            "",
            "```python",
            "import steer_agents as sa",
            "from steer_agents.hub import pull",
            "",
            f"direction = pull({name!r}{argument}, expect_model=policy)",
            "with sa.steer(policy, sa.Add(direction, strength=1.0)):",
            "    ...",
            "```",
            "",
            "## Model it was found on",
            "",
            *_table(
                ["fingerprint", "value"], [[k, v] for k, v in (header["model"] or {"model": "not stated"}).items()]
            ),
            "",
            "## How it was made",
            "",
            *_table(["", ""], [[k, "not stated" if v is None else v] for k, v in provenance.items()]),
            "",
            f"## Statistics of `{filename}`",
            "",
            *_table(["location", "type", "rows x width", *STATISTICS], rows),
            "",
        ]
    )


# ---- places


def _local(place: str | Path) -> Path | None:
    """The local path that is meant, or None for a repository id."""
    text = str(place)
    path = Path(place).expanduser()
    return path if isinstance(place, Path) or text.startswith((".", "/", "~")) or path.exists() else None


def _check_filename(filename: str) -> None:
    if Path(filename).name != filename or not filename.endswith(artifacts.SUFFIX):
        raise BadInput(
            f"filename must be a plain name ending in {artifacts.SUFFIX}, e.g. {FILENAME!r}; got {filename!r}."
        )


def _check_card(text: str, destination: str | Path) -> None:
    if _MARK not in text:
        raise BadInput(
            f"push: {destination} has a {CARD} that is not a card of a direction. Choose another place, or pass "
            "replace_card=True to overwrite it."
        )


def _card_of(api: HubAPI, repo_id: str) -> str | None:
    """The README.md of a repository, None if it has none."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(api.hf_hub_download(repo_id, CARD, revision=None)).read_text(encoding="utf-8")
    except LocalEntryNotFoundError:  # not reachable, which is no answer
        raise
    except EntryNotFoundError:
        return None


def _default_api() -> HubAPI:
    from huggingface_hub import HfApi

    return HfApi()


@contextmanager
def explained(doing: str, repo_id: str) -> Iterator[None]:
    """Turn what the Hub's client raises into errors that say what to do next."""
    import httpx
    from huggingface_hub import errors

    steps: list[tuple[type[Exception], str]] = [  # the first that fits counts
        (errors.OfflineModeIsEnabled, "Offline mode is on: unset HF_HUB_OFFLINE, or use a local folder ('./name')."),
        (errors.LocalTokenNotFoundError, "Log in with `hf auth login`, or set HF_TOKEN."),
        (errors.GatedRepoError, "Ask for access on the repository's page, and log in with `hf auth login`."),
        (errors.RevisionNotFoundError, "Check the revision: a branch, tag or commit of that repository."),
        (
            errors.RepositoryNotFoundError,
            "There is none of that name, or it is private: check the name, and log in with `hf auth login` (or set "
            "HF_TOKEN). A local folder begins with './'.",
        ),
        (errors.LocalEntryNotFoundError, "It is not in the local cache: check the connection, or use a local folder."),
        (errors.EntryNotFoundError, "The repository has no such file: pass filename=..., see the repository's page."),
        (errors.HfHubHTTPError, "Check that you are logged in (`hf auth login`, HF_TOKEN) and may write there."),
        (httpx.HTTPError, "The Hub cannot be reached: check the connection, or use a local folder ('./name')."),
        (OSError, "Check the connection and the disk."),
    ]
    try:
        yield
    except errors.HFValidationError as error:
        raise BadInput(
            f"{doing} {repo_id!r}: that is no repository id ({error}). Use 'user/name', or begin a local folder with './'."
        ) from error
    except tuple(kind for kind, _ in steps) as error:
        step = next(step for kind, step in steps if isinstance(error, kind))
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise HubError(f"{doing} {repo_id!r} failed: {type(error).__name__} ({reason}). {step}") from error


# ---- Markdown


def _cell(value: Any) -> str:
    return " ".join(str(value).split()).replace("|", "\\|")


def _number(entry: Mapping[str, float], name: str) -> str:
    return f"{entry[name]:.6g}" if name in entry else ""


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(_cell(value) for value in line) + " |" for line in lines]
