"""Rewards from an endpoint: answers are checked, corrected, cached and shown; nothing ends without a reward or an error."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from toys import infos

from launch.replay import ReplayServer, Reply
from policies.errors import BadInput, EndpointError
from steer_agents.guidance import Endpoint, RewardWriter, from_infos
from steer_agents.guidance.endpoint import Written, manual
from steer_agents.guidance.language import CONDITIONS, TERMS, parse

GOOD = "reward:\n  - reach: {to: goal}\n"
SCENE = from_infos()({}, infos(1))


def written(server: ReplayServer, said: list[str] | None = None, timeout: float = 10.0, **settings: object) -> Written:
    show = (lambda text: None) if said is None else said.append
    writer = RewardWriter(Endpoint(server.url, "m", timeout=timeout), show=show, **settings)  # type: ignore[arg-type]
    return writer.write("go to the goal", SCENE, "+z up")


@pytest.mark.parametrize("answer", [GOOD, f"```yaml\n{GOOD}```", f"Here it is:\n```\n{GOOD}```\nGood luck!"])
def test_a_program_is_taken_from_an_answer_and_shown(answer: str) -> None:
    said: list[str] = []
    with ReplayServer([Reply(answer)]) as server:
        found = written(server, said)
    assert (found.source, found.errors) == ("endpoint", ())
    assert found.program.stages[0].terms[0].arguments["to"] == "goal"
    assert "reach: {to: goal}" in said[-1]
    sent = server.requests[0]
    assert sent["path"] == "/v1/chat/completions"
    assert (sent["model"], sent["temperature"]) == ("m", 0.0)
    assert "goal: [0.30, 0.10, 0.20]" in sent["messages"][1]["content"]
    assert "go to the goal" in sent["messages"][1]["content"]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("Certainly! I would move the arm carefully.", "must be a mapping"),
        ("reward:\n  - reach: {to: gaol}\n", "keypoint 'gaol' is not in this scene; did you mean 'goal'"),
        ("reward:\n  - stay_away: {from: goal, at_least: .nan}\n", "must be finite"),
        ("import os\nos.system('true')", "line"),
        (f"```\n{GOOD}```\nor\n```\n{GOOD}```", "2 fenced blocks"),
        ("", "it is empty"),
    ],
)
def test_a_wrong_answer_is_sent_back_with_its_error_and_corrected(wrong: str, says: str) -> None:
    with ReplayServer([Reply(wrong), Reply(GOOD)]) as server:
        found = written(server)
    assert says in found.errors[0]
    assert len(server.requests) == 2
    *_, said, correction = server.requests[1]["messages"]
    assert said == {"role": "assistant", "content": wrong}
    assert says in correction["content"]


def test_attempts_are_bounded_and_end_in_an_error_that_tells_all_of_them() -> None:
    with (
        ReplayServer([Reply("no"), Reply("reward: []"), Reply(GOOD)]) as server,
        pytest.raises(EndpointError) as caught,
    ):
        written(server, attempts=2)
    assert len(server.requests) == 2
    assert "in 2 attempts: (1)" in str(caught.value)
    assert "nothing would be steered" in str(caught.value)
    assert "fallback=" in str(caught.value)


def test_a_fallback_is_used_only_when_given_and_says_so() -> None:
    said: list[str] = []
    with ReplayServer([]) as server:
        found = written(server, said, attempts=1, fallback=parse(GOOD))
    assert found.source == "fallback"
    assert any("410" in text for text in said)
    assert "from fallback" in said[-1]


def test_a_server_that_is_down_is_an_error_that_names_it() -> None:
    with ReplayServer([]) as server:
        pass
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1.*cannot be reached.*is the server running"):
        written(server, attempts=1)


def test_a_slow_server_is_given_up_on() -> None:
    with (
        ReplayServer([Reply(GOOD, delay=30.0)]) as server,
        pytest.raises(EndpointError, match=r"did not answer within 0\.2 s"),
    ):
        written(server, attempts=1, timeout=0.2)


@pytest.mark.parametrize(
    "body", [b"<html>", b"{}", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}', b"[" * 9999]
)
def test_answers_in_another_form_are_errors(body: bytes) -> None:
    with (
        ReplayServer([Reply(body=body)]) as server,
        pytest.raises(EndpointError, match="not as an OpenAI-compatible endpoint"),
    ):
        written(server, attempts=1)


def test_a_refusal_is_told_with_its_status() -> None:
    with ReplayServer([Reply("no key", status=401)]) as server, pytest.raises(EndpointError, match="refused with 401"):
        written(server, attempts=1)


def test_answers_are_cached_and_checked_again(tmp_path: Path) -> None:
    with ReplayServer([Reply("no"), Reply(GOOD), Reply(GOOD)]) as server:
        assert written(server, cache=tmp_path).source == "endpoint"
        assert written(server, cache=tmp_path).source == "cache"
        assert len(server.requests) == 2
        (file,) = tmp_path.iterdir()
        kept = json.loads(file.read_text())
        assert (kept["answer"], len(kept["errors"])) == (GOOD, 1)
        file.write_text(json.dumps(kept | {"program": "reward:\n  - reach: {to: moon}\n"}))
        said: list[str] = []
        assert written(server, said, cache=tmp_path).source == "endpoint"
        assert "does not hold a valid answer" in said[0]


def test_a_picture_goes_along_and_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_KEY", "secret")
    with ReplayServer([Reply(GOOD)]) as server:
        writer = RewardWriter(Endpoint(server.url, "m", key_variable="SOME_KEY"), show=lambda text: None)
        writer.write("go", SCENE, "+z up", picture=np.zeros((4, 4, 3), dtype=np.uint8))
    text, image = server.requests[0]["messages"][1]["content"]
    assert "go" in text["text"]
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")
    monkeypatch.delenv("SOME_KEY")
    with ReplayServer([]) as server, pytest.raises(BadInput, match="SOME_KEY"):
        RewardWriter(Endpoint(server.url, "m", key_variable="SOME_KEY")).write("go", SCENE, "+z up")


def test_bad_endpoints_are_refused() -> None:
    with pytest.raises(BadInput, match="http://"):
        Endpoint("file:///etc/hosts", "m")
    with pytest.raises(BadInput, match="timeout"):
        Endpoint("http://localhost", "m", timeout=0.0)
    with pytest.raises(BadInput, match="attempts"):
        RewardWriter(Endpoint("http://localhost", "m"), attempts=0)


def test_the_manual_explains_every_word_of_the_language() -> None:
    text = manual()
    for name, kind in TERMS.items():
        assert f"- {name}:" in text
        assert all(f"{argument}:" in text for argument in kind.arguments)
    assert all(f"- {name}:" in text for name in CONDITIONS)
