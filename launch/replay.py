"""A server on loopback that replays recorded answers of an OpenAI-compatible endpoint, in their order: for tests and experiments.

with ReplayServer([Reply("reward: [...]")]) as server:
    Endpoint(server.url, model="recorded").ask(messages)
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass(frozen=True)
class Reply:
    """One recorded answer.

    Args:
        content: what the model said.
        status: of HTTP.
        delay: before it is sent [s].
        body: sent as it is in place of a well-formed answer; None sends `content`.
    """

    content: str = ""
    status: int = 200
    delay: float = 0.0
    body: bytes | None = None


class ReplayServer:
    """Answers the n-th request with the n-th reply, and with status 410 when there are no more.

    Attributes:
        requests: bodies that were received.
    """

    def __init__(self, replies: Sequence[Reply]) -> None:
        self.replies, self.requests = list(replies), list[dict[str, Any]]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append({"path": self.path, **json.loads(body)})
                number = len(outer.requests) - 1
                reply = outer.replies[number] if number < len(outer.replies) else Reply("no more recorded answers", 410)
                outer._stopping.wait(reply.delay)
                answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": reply.content}}]}
                data = json.dumps(answer).encode() if reply.body is None else reply.body
                try:
                    self.send_response(reply.status)
                    self.send_header("Content-Length", str(len(data)))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # the client has given up waiting
                    return

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._stopping = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """What `Endpoint` is given."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
