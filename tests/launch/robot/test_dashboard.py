"""The dashboard over plain HTTP: what it shows, what it lets do, and whom it turns away."""

from __future__ import annotations

import http.client
import io
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
from flight_parts import tick
from PIL import Image

from launch.robot.contract import Knob, Tick
from launch.robot.dashboard import MAX_BODY, MAX_VIEWERS, Dashboard
from policies.errors import BadInput


class Panel:
    """An operator's panel that remembers what was asked of it."""

    def __init__(self) -> None:
        self.turned: list[tuple[str, float]] = []
        self.stops: list[str] = []
        self.tick: Tick | None = None

    def knobs(self) -> list[Knob]:
        return [Knob("slow", 0.2, -1.0, 1.0)]

    def turn(self, part: str, value: float) -> None:
        self.turned.append((part, value))

    def stop(self, why: str) -> None:
        self.stops.append(why)

    def latest(self) -> Tick | None:
        return self.tick


@pytest.fixture
def panel() -> Panel:
    return Panel()


@pytest.fixture
def dashboard(panel: Panel) -> Iterator[Dashboard]:
    with Dashboard(panel) as running:
        yield running


def ask(
    dashboard: Dashboard, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, **query: str
) -> Any:
    """(status, headers, data); the token is added unless the query has one."""
    connection = http.client.HTTPConnection(dashboard.host, timeout=30)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    connection.request(method, f"{path}?{urlencode({'token': dashboard.token, **query})}", data, headers or {})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read()
    connection.close()
    return found


def events(dashboard: Dashboard) -> tuple[http.client.HTTPConnection, Any]:
    connection = http.client.HTTPConnection(dashboard.host, timeout=30)
    connection.request("GET", f"/events?token={dashboard.token}")
    return connection, connection.getresponse()


def test_the_page_asks_nobody_else_and_runs_only_its_own_script(dashboard: Dashboard) -> None:
    status, headers, data = ask(dashboard, "GET", "/")
    assert status == 200
    text = data.decode()
    assert not re.search(r"(src|href|url)\s*[=(]\s*[\"']?(https?:)?//", text)
    nonce = re.search(r"script-src 'nonce-([\w-]+)'", headers["Content-Security-Policy"])
    assert nonce is not None
    assert text.count(f'nonce="{nonce[1]}"') == 2
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert dashboard.url == f"http://{dashboard.host}/?token={dashboard.token}"
    assert dashboard.host.startswith("127.0.0.1:")
    assert ask(dashboard, "GET", "/other")[0] == 404
    assert ask(dashboard, "POST", "/", {})[0] == 404


def test_events_show_actions_counters_jitter_and_knobs(dashboard: Dashboard, panel: Panel) -> None:
    for number in range(40):
        panel.tick = tick(number, chunk_age=float("nan"))
        dashboard.write(panel.tick)
    connection, stream = events(dashboard)
    assert stream.getheader("Content-Type") == "text/event-stream"
    state = json.loads(stream.readline().removeprefix(b"data: "))
    connection.close()
    clipped = sum(len(tick(number).decisions) for number in range(40))
    assert state["gate"] == [["clip position x", clipped]]
    assert state["actions"] == [["x", panel.tick.asked["x"], panel.tick.sent["x"]], ["y", 0.0, 0.0]]
    assert (state["number"], state["mode"], state["chunk_age"]) == (39, "steered", None)
    assert state["knobs"] == [{"part": "slow", "value": 0.2, "low": -1.0, "high": 1.0}]
    assert state["jitter_ms"]["max"] < 1e-6
    assert state["cameras"] == ["front"]


def test_the_jitter_is_that_of_the_last_ticks(dashboard: Dashboard) -> None:
    for number in range(20):
        dashboard.write(tick(number, period=0.033 + (0.010 if number == 7 else 0.0)))
    jitter = dashboard.state()["jitter_ms"]
    assert jitter["p50"] == pytest.approx(0.0)
    assert jitter["max"] == pytest.approx(10.0)
    assert dashboard.state()["mode"] == "waiting"


def test_a_camera_is_a_jpeg_of_the_latest_picture(dashboard: Dashboard, panel: Panel) -> None:
    picture = np.full((16, 24, 3), (250, 10, 10), np.uint8)
    panel.tick = tick(0, observation={"pixels": {"top": picture}})
    status, headers, data = ask(dashboard, "GET", "/camera", name="pixels/top")
    assert (status, headers["Content-Type"]) == (200, "image/jpeg")
    shown = np.asarray(Image.open(io.BytesIO(data)))
    assert shown.shape == picture.shape
    assert np.abs(shown.astype(int) - picture).max() < 12
    status, _, data = ask(dashboard, "GET", "/camera", name="../../etc/passwd")
    assert status == 404
    assert "is unknown" in json.loads(data)["error"]


def test_sliders_turn_within_the_limits_which_the_server_holds(dashboard: Dashboard, panel: Panel) -> None:
    assert ask(dashboard, "POST", "/turn", {"part": "slow", "value": -0.5})[0] == 200
    assert panel.turned == [("slow", -0.5)]
    bad: list[Any] = [
        {"part": "slow", "value": 1.01}, {"part": "slow", "value": "0"}, {"part": "slow", "value": True}, {"part": "slow"},
        {"part": "fast", "value": 0}, {"part": ["slow"], "value": 0}, [], "slow", b"{", b"[" * 3000, b'{"part": "slow", "value": NaN}',
        b'{"part": "slow", "value": 1e999}', b"x" * (MAX_BODY + 1),
    ]  # fmt: skip
    for body in bad:
        status, _, data = ask(dashboard, "POST", "/turn", body)
        assert status == 400, body
        assert json.loads(data)["error"]
    assert panel.turned == [("slow", -0.5)]
    assert "-1 to 1, the limits of the recipe" in json.loads(ask(dashboard, "POST", "/turn", bad[0])[2])["error"]


def test_a_refusal_of_the_panel_itself_reaches_the_page(dashboard: Dashboard, panel: Panel) -> None:
    def turn(part: str, value: float) -> None:
        raise BadInput("not while it is stopped")

    panel.turn = turn  # type: ignore[method-assign]
    status, _, data = ask(dashboard, "POST", "/turn", {"part": "slow", "value": 0})
    assert (status, json.loads(data)["error"]) == (400, "not while it is stopped")


@pytest.mark.parametrize("body", [{"why": "smoke"}, {}, None, b"", b"broken {", [], b"x" * (MAX_BODY + 1)])
def test_stop_stops_whatever_is_in_the_request(dashboard: Dashboard, panel: Panel, body: Any) -> None:
    assert ask(dashboard, "POST", "/stop", body)[0] == 200
    assert len(panel.stops) == 1
    assert panel.stops[0].startswith("dashboard: ")


@pytest.mark.parametrize(
    ("headers", "query", "reason"),
    [
        ({}, {"token": "wrong"}, "token is wrong"),
        ({}, {"token": ""}, "token is wrong"),
        ({}, {"token": "ü"}, "token is wrong"),
        ({"Origin": "http://evil.example"}, {}, "another page"),
        ({"Origin": "null"}, {}, "another page"),
        ({"Sec-Fetch-Site": "cross-site"}, {}, "another page"),
        ({"Host": "evil.example"}, {}, "not the one that is served"),
    ],
)
def test_wrong_tokens_other_pages_and_rebound_names_are_refused(
    dashboard: Dashboard, panel: Panel, headers: dict[str, str], query: dict[str, str], reason: str
) -> None:
    requests = [("POST", "/stop"), ("POST", "/turn"), ("GET", "/"), ("GET", "/events"), ("GET", "/camera")]
    for method, path in requests:
        status, _, data = ask(
            dashboard, method, path, {"part": "slow", "value": 0} if method == "POST" else None, headers, **query
        )
        assert status == 403
        assert reason in json.loads(data)["error"]
        assert dashboard.token.encode() not in data
    assert panel.stops == panel.turned == []


def test_the_own_page_may_post_and_stop_works_while_all_places_to_watch_are_taken(
    dashboard: Dashboard, panel: Panel
) -> None:
    watching = [events(dashboard) for _ in range(MAX_VIEWERS)]
    assert all(stream.readline().startswith(b"data: ") for _, stream in watching)
    assert ask(dashboard, "GET", "/events")[0] == 503
    own = {"Origin": f"http://{dashboard.host}", "Sec-Fetch-Site": "same-origin"}
    assert ask(dashboard, "POST", "/stop", {}, own)[0] == 200
    assert len(panel.stops) == 1
    for connection, _ in watching:
        connection.close()


def test_a_port_that_is_taken_is_said(dashboard: Dashboard, panel: Panel) -> None:
    with pytest.raises(BadInput, match="choose another port"):
        Dashboard(panel, int(dashboard.host.partition(":")[2]))
