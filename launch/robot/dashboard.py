"""A page on this machine that shows a running deployment, turns its strengths and stops it.

    with Dashboard(panel) as dashboard:           # a FlightSink: hand it every tick
        print(dashboard.url)                      # http://127.0.0.1:PORT/?token=...

    GET  /          the page                       POST /turn   {"part": ..., "value": ...}     through OperatorPanel.turn
    GET  /events    server-sent events, 8 a second  POST /stop   {"why": ...}                    through OperatorPanel.stop
    GET  /camera    ?name=...: the latest picture, JPEG

Every request needs the token of the URL. A request that another web page made the browser send is refused: the host has to be the one
that is served (against DNS rebinding), the origin, if there is one, this page's. The server listens on loopback only; from another
machine go through a tunnel (ssh -L). The STOP of a page is no replacement for the emergency stop of the robot.
"""

from __future__ import annotations

import hmac
import io
import json
import logging
import math
import secrets
import threading
from collections import Counter, deque
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import numpy as np

from launch.robot.contract import OperatorPanel, Tick
from launch.robot.recorder import is_picture
from launch.server.about import flat
from policies.errors import BadInput, SteerError, nearest

_LOG = logging.getLogger(__name__)
PERIODS = 300
"""Ticks over which the period error is told, the distance of a period from their median."""
EVENT_S = 0.125
"""Seconds between two events."""
MAX_BODY = 4096
"""Bytes of a request's body."""
MAX_VIEWERS = 8
"""Pages that may watch at once."""


class Dashboard:
    """See the module's docstring.

    Args:
        panel: what the operator may do.
        port: 0 takes a free one.
    Attributes:
        url: with the token; keep it as private as the robot.
    """

    def __init__(self, panel: OperatorPanel, port: int = 0) -> None:
        self.panel, self.token = panel, secrets.token_urlsafe(32)
        self._lock = threading.Lock()
        self._gate: Counter[str] = Counter()
        self._periods: deque[float] = deque(maxlen=PERIODS)
        self._viewers = threading.BoundedSemaphore(MAX_VIEWERS)
        self._stopping = threading.Event()
        try:
            self._server = _Server(("127.0.0.1", port), _handler(self))
        except OSError as error:
            raise BadInput(f"dashboard: cannot listen on 127.0.0.1:{port} ({error}); choose another port.") from None
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="dashboard", daemon=True
        )

    @property
    def url(self) -> str:
        return f"http://{self.host}/?token={self.token}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop serving."""
        self._stopping.set()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    # ---- what the control loop hands over

    def write(self, tick: Tick) -> None:
        """Count a tick; a few microseconds, no waiting for viewers."""
        with self._lock:
            self._gate.update(tick.decisions)
            self._periods.append(tick.period)

    # ---- what a page sees and does

    def state(self) -> dict[str, Any]:
        """What one event says, JSON-able."""
        tick = self.panel.latest()
        with self._lock:
            gate, periods = self._gate.most_common(), np.array(self._periods, dtype=np.float64)
        error = np.abs(periods - np.median(periods)) * 1e3 if len(periods) else np.zeros(1)
        found: dict[str, Any] = {
            "number": None, "mode": "waiting", "chunk": None, "chunk_age": None, "actions": [], "cameras": [],
            "gate": [list(row) for row in gate],
            "jitter_ms": {"p50": float(np.median(error)), "p99": float(np.percentile(error, 99)), "max": float(error.max())},
            "knobs": [{"part": one.part, "value": one.value, "low": one.low, "high": one.high} for one in self.panel.knobs()],
        }  # fmt: skip
        if tick is not None:
            names = dict.fromkeys([*tick.asked, *tick.sent])
            found |= {
                "number": tick.number, "mode": tick.mode, "chunk": tick.chunk, "chunk_age": _finite(tick.chunk_age),
                "actions": [[name, _finite(tick.asked.get(name)), _finite(tick.sent.get(name))] for name in names],
                "cameras": [name for name, value in flat(tick.observation).items() if is_picture(value)],
            }  # fmt: skip
        return found

    def camera(self, name: str) -> bytes:
        """The latest picture as JPEG.

        Raises:
            BadInput: no such camera.
        """
        from PIL import Image

        tick = self.panel.latest()
        entries = {} if tick is None else flat(tick.observation)
        pictures = {key: value for key, value in entries.items() if is_picture(value)}
        if name not in pictures:
            raise BadInput(f"camera {name[:100]!r} is unknown{nearest(name, pictures)}")
        picture = np.repeat(pictures[name], 3, axis=2) if pictures[name].shape[2] == 1 else pictures[name]
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "JPEG", quality=80)
        return buffer.getvalue()

    def turn(self, body: Mapping[str, Any]) -> None:
        """Ask for a strength, within the limits of the recipe.

        Raises:
            BadInput: another body, no such part, or beyond its limits.
        """
        part, value = body.get("part"), body.get("value")
        knobs = {knob.part: knob for knob in self.panel.knobs()}
        if not isinstance(part, str) or part not in knobs:
            raise BadInput(f"turn: part {str(part)[:100]!r} does not exist{nearest(part, knobs)}")
        knob = knobs[part]
        if isinstance(value, bool) or not isinstance(value, int | float) or not knob.low <= value <= knob.high:
            raise BadInput(
                f"turn: {part} may be {knob.low:g} to {knob.high:g}, the limits of the recipe, got {str(value)[:100]}."
            )
        self.panel.turn(part, float(value))

    def stop(self, body: Mapping[str, Any]) -> None:
        """Stop the robot; whatever the body says."""
        self.panel.stop(f"dashboard: {str(body.get('why', 'stop'))[:100]}")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 32

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that left in the middle is no error."""
        _LOG.debug("dashboard: a connection ended early", exc_info=True)


def _handler(dashboard: Dashboard) -> type[BaseHTTPRequestHandler]:
    """The handler class of one dashboard."""
    page = (Path(__file__).parent / "dashboard.html").read_text(encoding="utf-8")

    class Handler(BaseHTTPRequestHandler):
        timeout = 10.0  # of a client that does not send, or does not read
        protocol_version = "HTTP/1.1"
        server_version, sys_version = "steer-agents", ""

        def do_GET(self) -> None:
            path, query = self._split()
            if not self._allowed(query):
                return
            if path == "/":
                nonce = secrets.token_urlsafe(16)
                policy = (
                    f"default-src 'none'; img-src 'self' data:; connect-src 'self'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
                    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
                )
                self._answer(
                    200,
                    "text/html; charset=utf-8",
                    page.replace("NONCE", nonce).encode(),
                    {"Content-Security-Policy": policy},
                )
            elif path == "/events":
                self._events()
            elif path == "/camera":
                try:
                    self._answer(200, "image/jpeg", dashboard.camera(query.get("name", [""])[0]))
                except SteerError as error:
                    self._say(404, str(error))
            else:
                self._say(404, f"{path[:100]!r} is unknown; there are /, /events, /camera, /turn and /stop.")

        def do_POST(self) -> None:
            path, query = self._split()
            if not self._allowed(query):
                return
            actions = {"/turn": dashboard.turn, "/stop": dashboard.stop}
            if path not in actions:
                self._say(404, f"{path[:100]!r} is unknown; posts go to /turn and /stop.")
                return
            try:
                actions[path](self._body(path))
            except SteerError as error:
                self._say(400, str(error))
            else:
                self._say(200, "")

        def _split(self) -> tuple[str, dict[str, list[str]]]:
            parts = urlsplit(self.path)
            return parts.path, parse_qs(parts.query, max_num_fields=8)

        def _allowed(self, query: dict[str, list[str]]) -> bool:
            """Host, origin and token, in this order; answers itself where one is wrong."""
            host, origin = self.headers.get("Host"), self.headers.get("Origin")
            foreign = self.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none")
            if host not in (dashboard.host, dashboard.host.replace("127.0.0.1", "localhost")):
                self._say(403, "this host is not the one that is served.")
            elif foreign or (origin is not None and urlsplit(origin).netloc != host):
                self._say(403, "another page may not speak to this one.")
            elif not hmac.compare_digest(query.get("token", [""])[0].encode(), dashboard.token.encode()):
                self._say(403, "the token is wrong; open the URL that was printed at the start.")
            else:
                return True
            return False

        def _body(self, path: str) -> dict[str, Any]:
            """The JSON object of a post; a stop is taken without one."""
            length = self.headers.get("Content-Length", "0")
            if not length.isdigit() or int(length) > MAX_BODY:
                self.close_connection = True
                length = "0"
            try:
                body = json.loads(self.rfile.read(int(length)) or b"{}")
            except (ValueError, RecursionError, OSError):
                body = None
            if isinstance(body, dict):
                return body
            if path == "/stop":
                return {}
            raise BadInput(f"{path}: expected a JSON object of at most {MAX_BODY} bytes.")

        def _events(self) -> None:
            """One event after the other until the viewer leaves."""
            if not dashboard._viewers.acquire(blocking=False):
                self._say(503, f"{MAX_VIEWERS} pages watch already; close one.")
                return
            try:
                self.close_connection = True
                self._head(200, "text/event-stream", {})
                while not dashboard._stopping.is_set():
                    self.wfile.write(b"data: " + json.dumps(dashboard.state(), allow_nan=False).encode() + b"\n\n")
                    self.wfile.flush()
                    dashboard._stopping.wait(EVENT_S)
            finally:
                dashboard._viewers.release()

        def _say(self, status: int, error: str) -> None:
            if status >= 400:
                self.close_connection = True  # what else was sent is not read
            self._answer(status, "application/json", json.dumps({"ok": status == 200, "error": error}).encode())

        def _answer(self, status: int, kind: str, data: bytes, headers: Mapping[str, str] | None = None) -> None:
            self._head(status, kind, {"Content-Length": str(len(data)), **(headers or {})})
            self.wfile.write(data)

        def _head(self, status: int, kind: str, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            fixed = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
                     "Cross-Origin-Resource-Policy": "same-origin"}  # fmt: skip
            if self.close_connection:
                fixed["Connection"] = "close"
            for name, value in {"Content-Type": kind, **fixed, **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Requests hold the token; they are not logged."""

    return Handler


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
