"""Sharing: the same layout in folders and on the Hub, cards that tell the truth, and errors that say what to do next."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from huggingface_hub import ModelCard, close_session
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalTokenNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tiny_models import inputs, tiny

from policies.errors import BadArtifact, BadInput, HubError, WrongModel
from steer_agents import artifacts, hub
from steer_agents.direction import Direction
from steer_agents.finding import find
from steer_agents.sites import Site
from steer_agents.strength import Strength

KEY = "language.1.block_output"


def example(scale: float = 1.0) -> Direction:
    return Direction.from_raw(
        {KEY: scale * torch.arange(1.0, 7.0)},
        Site(layer=1),
        {KEY: {"mean_norm": 12.5, "sd": 0.25}},
        method="example | of pipes",
        model={"class": "Tiny", "weights": "00ff"},
        info={"data": "abc123", "seed": 3},
    )


def error(kind: type[HfHubHTTPError], status: int) -> HfHubHTTPError:
    return kind("refused", response=httpx.Response(status, request=httpx.Request("GET", "https://hub.invalid")))


class FolderHub:
    """A Hub that is a folder: repositories are folders of revisions, and what is missing raises what the real client raises."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        if repo_id in self.private and not exist_ok:
            raise error(HfHubHTTPError, 409)
        self.private.setdefault(repo_id, private)
        (self.root / repo_id / "main").mkdir(parents=True, exist_ok=True)

    def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
        if repo_id not in self.private:
            raise error(RepositoryNotFoundError, 404)
        shutil.copytree(folder_path, self.root / repo_id / "main", dirs_exist_ok=True)
        self.messages.append(commit_message)

    def hf_hub_download(self, repo_id: str, filename: str, *, revision: str | None = None) -> str:
        if repo_id not in self.private:
            raise error(RepositoryNotFoundError, 404)
        folder = self.root / repo_id / (revision or "main")
        if not folder.is_dir():
            raise error(RevisionNotFoundError, 404)
        if not (folder / filename).is_file():
            raise EntryNotFoundError(f"{filename} is not there")
        return str(folder / filename)

    def files(self, repo_id: str) -> set[str]:
        return {file.name for file in (self.root / repo_id / "main").iterdir()}


@pytest.fixture
def api(tmp_path: Path) -> FolderHub:
    return FolderHub(tmp_path / "hub")


def assert_same(a: Direction, b: Direction) -> None:
    assert torch.equal(a.vectors[KEY], b.vectors[KEY])
    assert (a.statistics, a.site, a.method, a.model, a.info) == (b.statistics, b.site, b.method, b.model, b.info)


# ---- there and back


def test_a_folder_and_a_repository_hold_the_same_files(tmp_path: Path, api: FolderHub) -> None:
    path = hub.push(example(), tmp_path / "shared")
    assert path == tmp_path / "shared" / "direction.safetensors"
    assert hub.push(example(), "user/slow", api=api) == "user/slow"
    local = {file.name for file in (tmp_path / "shared").iterdir()}
    assert local == api.files("user/slow") == {"direction.safetensors", "README.md"}
    assert_same(hub.pull(tmp_path / "shared"), example())
    assert_same(hub.pull("user/slow", api=api), example())
    assert_same(hub.pull(tmp_path / "shared" / "direction.safetensors"), example())


def test_an_artifact_given_by_its_path_is_copied_byte_by_byte(tmp_path: Path, api: FolderHub) -> None:
    source = artifacts.save(example(), tmp_path / "mine.safetensors", licence="MIT")
    hub.push(source, "user/slow", api=api)
    assert hub.download("user/slow", api=api).read_bytes() == source.read_bytes()
    hub.push(str(source), str(tmp_path / "folder"))
    assert (tmp_path / "folder" / "direction.safetensors").read_bytes() == source.read_bytes()


def test_repositories_are_private_unless_asked_otherwise(api: FolderHub) -> None:
    hub.push(example(), "user/a", api=api)
    hub.push(example(), "user/b", private=False, message="Share b", api=api)
    assert api.private == {"user/a": True, "user/b": False}
    assert api.messages == ["Add a direction", "Share b"]


def test_pushing_again_replaces_the_direction_and_its_card(tmp_path: Path, api: FolderHub) -> None:
    for destination in (tmp_path / "folder", "user/slow"):
        hub.push(example(), destination, api=api)
        hub.push(2 * example(), destination, api=api)
        assert hub.pull(destination, api=api).scale(KEY) == 2.0
        assert "2 * example" in hub.download(destination, api=api).with_name("README.md").read_text()


def test_a_repository_can_hold_several_directions_and_revisions(api: FolderHub) -> None:
    hub.push(example(), "user/set", filename="slow.safetensors", api=api)
    hub.push(2 * example(), "user/set", filename="fast.safetensors", api=api)
    shutil.copytree(api.root / "user/set/main", api.root / "user/set/v1")
    assert hub.pull("user/set", "slow.safetensors", api=api).scale(KEY) == 1.0
    assert hub.pull("user/set", "fast.safetensors", "v1", api=api).scale(KEY) == 2.0


def test_a_relative_folder_begins_with_a_dot_and_an_existing_one_needs_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: FolderHub
) -> None:
    monkeypatch.chdir(tmp_path)
    hub.push(example(), "./new", api=api)
    assert (tmp_path / "new" / "direction.safetensors").is_file()
    (tmp_path / "user" / "existing").mkdir(parents=True)
    hub.push(example(), "user/existing", api=api)
    assert (tmp_path / "user" / "existing" / "direction.safetensors").is_file()
    assert api.private == {}
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    hub.push(example(), "~/mine", api=api)
    assert_same(hub.pull("~/mine"), example())


def test_pulling_for_another_model_is_refused_unless_asked_by_name(tmp_path: Path) -> None:
    llama, gpt2 = tiny("llama"), tiny("gpt2")
    found = find(llama, "mean-difference", positive=[inputs("llama", seed=1)], negative=[inputs("llama", seed=2)])
    hub.push(found, tmp_path / "folder")
    hub.pull(tmp_path / "folder", expect_model=llama)
    with pytest.raises(WrongModel, match="GPT2LMHeadModel"):
        hub.pull(tmp_path / "folder", expect_model=gpt2)
    hub.pull(tmp_path / "folder", expect_model=gpt2, allow_other_model=True)


# ---- the card


def test_the_card_says_what_the_artifact_says(tmp_path: Path) -> None:
    path = hub.push(
        example(),
        tmp_path / "slow",
        licence="CC-BY-4.0",
        strengths_tried=[Strength(0.2, "alpha")],
        base_model="org/model",
    )
    text = (tmp_path / "slow" / "README.md").read_text()
    head = ModelCard(text).data.to_dict()
    assert head["library_name"] == "steer-agents"
    assert head["license"] == "cc-by-4.0"
    assert head["base_model"] == "org/model"
    assert "activation-steering" in head["tags"]
    header = artifacts.read_header(path)
    rows = {
        tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1])
        for line in text.splitlines()
        if line[:1] == "|"
    }
    assert ("weights", "00ff") in rows
    assert ("method", r"example \| of pipes") in rows
    assert ("data fingerprint", "abc123") in rows
    assert ("seed", "3") in rows
    assert ("licence", "CC-BY-4.0") in rows
    assert ("written", header["created"]) in rows
    assert ("strengths tried", '[{"unit": "alpha", "value": 0.2}]') in rows
    norm = f"{torch.arange(1.0, 7.0).norm():.6g}"
    assert (KEY, "float32", "1x6", norm, "12.5", "0.25", "", "") in rows
    assert str(tmp_path) not in text


def test_a_licence_that_the_hub_does_not_know_is_shown_as_other_with_its_text(tmp_path: Path) -> None:
    hub.push(example(), tmp_path / "a", licence="research only: ask first")
    text = (tmp_path / "a" / "README.md").read_text()
    assert ModelCard(text).data.to_dict()["license"] == "other"
    assert "research only: ask first" in text
    hub.push(example(), tmp_path / "b")
    assert "| licence | not stated |" in (tmp_path / "b" / "README.md").read_text()


@pytest.mark.parametrize("filename", ["direction.safetensors", "slow.safetensors"])
def test_the_example_on_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filename: str) -> None:
    monkeypatch.chdir(tmp_path)
    policy = tiny("llama")
    found = find(policy, "mean-difference", positive=[inputs("llama", seed=1)], negative=[inputs("llama", seed=2)])
    hub.push(found, "./slow", filename=filename)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "slow" / "README.md").read_text(), re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"policy": policy, "batch": inputs("llama")}
    exec(code[1].replace("    ...", "    logits = policy(**batch).logits"), names)
    assert not torch.equal(names["logits"], policy(**inputs("llama")).logits)


def test_a_readme_of_somebody_else_is_never_overwritten_without_being_asked(tmp_path: Path, api: FolderHub) -> None:
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "README.md").write_text("my project")
    api.create_repo("user/model", private=True, exist_ok=True)
    (api.root / "user/model/main/README.md").write_text("my model")
    for destination in (tmp_path / "project", "user/model"):
        with pytest.raises(BadInput, match=r"README\.md that is not a card.*replace_card=True"):
            hub.push(example(), destination, api=api)
    assert {file.name for file in (tmp_path / "project").iterdir()} == api.files("user/model") == {"README.md"}
    for destination in (tmp_path / "project", "user/model"):
        hub.push(example(), destination, replace_card=True, api=api)
        assert_same(hub.pull(destination, api=api), example())


# ---- refusals


def test_a_broken_artifact_is_not_pushed(tmp_path: Path, api: FolderHub) -> None:
    source = artifacts.save(example(), tmp_path / "mine.safetensors")
    source.write_bytes(source.read_bytes()[:-1])
    with pytest.raises(BadArtifact, match="truncated"):
        hub.push(source, "user/slow", api=api)
    with pytest.raises(BadArtifact, match="does not exist"):
        hub.push(tmp_path / "none.safetensors", "user/slow", api=api)
    assert api.private == {}


def test_an_artifact_damaged_on_the_way_is_not_loaded(api: FolderHub) -> None:
    hub.push(example(), "user/slow", api=api)
    path = hub.download("user/slow", api=api)
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(BadArtifact, match="checksum"):
        hub.pull("user/slow", api=api)


def test_licence_and_strengths_cannot_be_written_into_a_finished_file(tmp_path: Path) -> None:
    source = artifacts.save(example(), tmp_path / "mine.safetensors")
    with pytest.raises(BadInput, match=r"artifacts\.load\(path\)"):
        hub.push(source, tmp_path / "folder", licence="MIT")


@pytest.mark.parametrize("filename", ["direction.pt", "../direction.safetensors", "a/b.safetensors", ""])
def test_file_names_are_plain(tmp_path: Path, filename: str) -> None:
    with pytest.raises(BadInput, match="plain name"):
        hub.push(example(), tmp_path, filename=filename)
    with pytest.raises(BadInput, match="plain name"):
        hub.pull(tmp_path, filename)


def test_a_folder_without_the_file_is_answered_with_what_it_has(tmp_path: Path) -> None:
    hub.push(example(), tmp_path / "folder", filename="slow.safetensors")
    with pytest.raises(BadArtifact, match=r"no 'direction\.safetensors'.*slow\.safetensors"):
        hub.pull(tmp_path / "folder")
    with pytest.raises(BadArtifact, match="no artifacts"):
        hub.pull("./no-such-folder")
    with pytest.raises(BadInput, match="only means something on the Hub"):
        hub.pull(tmp_path / "folder", "slow.safetensors", "main")


def test_what_is_missing_on_the_hub_is_told_apart(api: FolderHub) -> None:
    with pytest.raises(HubError, match=r"pull from 'user/none' failed: RepositoryNotFoundError.*hf auth login"):
        hub.pull("user/none", api=api)
    hub.push(example(), "user/slow", api=api)
    with pytest.raises(HubError, match=r"EntryNotFoundError.*filename="):
        hub.pull("user/slow", "fast.safetensors", api=api)
    with pytest.raises(HubError, match=r"RevisionNotFoundError.*branch, tag or commit"):
        hub.pull("user/slow", revision="v9", api=api)


@pytest.mark.parametrize(
    ("raised", "step"),
    [
        (LocalTokenNotFoundError("no token"), "hf auth login"),
        (error(HfHubHTTPError, 401), "hf auth login"),
        (error(HfHubHTTPError, 403), "may write there"),
        (error(GatedRepoError, 403), "Ask for access"),
        (httpx.ConnectTimeout("slow line"), "check the connection"),
        (OSError("disk full"), "the disk"),
    ],
)
def test_what_goes_wrong_while_pushing_says_the_next_step(api: FolderHub, raised: Exception, step: str) -> None:
    class Refusing(FolderHub):
        def upload_folder(self, *, repo_id: str, folder_path: str, commit_message: str) -> None:
            raise raised

    with pytest.raises(HubError, match=f"push to 'user/slow' failed.*{step}") as caught:
        hub.push(example(), "user/slow", api=Refusing(api.root))
    assert caught.value.__cause__ is raised
    assert isinstance(caught.value, OSError)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[pytest.MonkeyPatch]:
    """The real client, turned towards a closed port of this machine; it keeps one session, which is made anew."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    close_session()
    yield monkeypatch
    close_session()


def test_the_real_client_in_offline_mode_is_explained(unreachable: pytest.MonkeyPatch) -> None:
    unreachable.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match=r"OfflineModeIsEnabled.*unset HF_HUB_OFFLINE"):
        hub.push(example(), "user/slow")
    with pytest.raises(HubError, match=r"not in the local cache"):
        hub.pull("user/slow")


def test_the_real_client_without_a_connection_is_explained(unreachable: pytest.MonkeyPatch) -> None:
    unreachable.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    with pytest.raises(HubError, match=r"ConnectError.*cannot be reached: check the connection"):
        hub.push(example(), "user/slow")


@pytest.mark.parametrize("name", ["a//b", "user/bad..name", "one/two/three"])
def test_the_real_client_refuses_bad_names_before_any_connection(name: str) -> None:
    for call in (lambda: hub.push(example(), name), lambda: hub.pull(name)):
        with pytest.raises(BadInput, match=r"no repository id.*'\./'"):
            call()
