"""Rewards written by a language or vision model behind an OpenAI-compatible endpoint (`POST {url}/chat/completions`).

    writer = RewardWriter(Endpoint("http://localhost:8000/v1", model="..."), cache="runs/rewards")
    written = writer.write("carry the block over the wall", scene, axes="+z up, -y left in the picture")

The model answers in the reward language (`language.py`), which is parsed and checked against the scene; it writes no code. An answer that
is prose, names something that is not there, or holds a NaN is sent back with the error, at most `attempts` times in all. Then
the writer raises `EndpointError`, or returns `fallback` where one was given, and says so: there is no way to end up with no reward.

What was asked and answered is kept in `cache`, one JSON file per request, and read back the next time, checked again. Program
and where it came from are shown to the user. VLS (arXiv 2602.03973) asks for PyTorch code instead, and counts a failed request
as a failed episode.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from policies.errors import BadInput, EndpointError, SteerError
from steer_agents.guidance.language import CONDITIONS, TERMS, Program, parse
from steer_agents.guidance.scene import Scene
from steer_agents.runs import write_json

LARGEST = 1_000_000
"""Bytes of an answer that are read."""
Message = Mapping[str, Any]


@dataclass(frozen=True)
class Endpoint:
    """Where a model answers.

    Args:
        url: of the API, e.g. "http://localhost:8000/v1".
        model: its name there.
        key_variable: environment variable that holds the API key; None sends none. The key itself is never stored.
        timeout: of a request, all of it [s].
        temperature, max_tokens: of the answer.
    """

    url: str
    model: str
    key_variable: str | None = None
    timeout: float = 60.0
    temperature: float = 0.0
    max_tokens: int = 2000

    def __post_init__(self) -> None:
        if not re.match(r"https?://[^/]", self.url):
            raise BadInput(f"Endpoint: url must begin with http:// or https://, got {self.url!r}.")
        if not self.timeout > 0:
            raise BadInput(f"Endpoint: timeout must be positive, got {self.timeout}.")

    def ask(self, messages: Sequence[Message]) -> str:
        """The text of the model's answer.

        Raises:
            EndpointError: it cannot be reached, takes too long, refuses, or answers in another form.
        """
        body = {
            "model": self.model,
            "messages": list(messages),
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
        }
        url = self.url.rstrip("/") + "/chat/completions"
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            if self.key_variable not in os.environ:
                raise BadInput(f"Endpoint: the environment variable {self.key_variable} with the API key is not set.")
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        data = self._received(request)
        try:
            content = json.loads(data)["choices"][0]["message"]["content"]
        except (ValueError, LookupError, TypeError, RecursionError):
            content = None
        if not isinstance(content, str):
            raise EndpointError(
                f"{url} answered, but not as an OpenAI-compatible endpoint does (choices[0].message.content): {data[:200]!r}."
            )
        return content

    def _received(self, request: urllib.request.Request) -> bytes:
        deadline, data = time.monotonic() + self.timeout, b""
        late = EndpointError(
            f"{request.full_url} did not answer within {self.timeout:g} s; raise Endpoint(timeout=...), or try later."
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as response:
                while chunk := response.read1(65_536):
                    data += chunk
                    if len(data) > LARGEST:
                        raise EndpointError(
                            f"{request.full_url} sent more than {LARGEST} bytes; that is no reward program."
                        )
                    if time.monotonic() > deadline:
                        raise late
        except urllib.error.HTTPError as error:
            said = error.read(300).decode(errors="replace")
            raise EndpointError(f"{request.full_url} refused with {error.code} {error.reason}: {said}") from None
        except TimeoutError:
            raise late from None
        except (urllib.error.URLError, OSError) as error:
            if isinstance(error, EndpointError):
                raise
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                raise late from None
            raise EndpointError(
                f"{request.full_url} cannot be reached ({reason}); is the server running, and the url right?"
            ) from None
        return data


@dataclass(frozen=True)
class Written:
    """A reward and where it came from.

    Args:
        program: checked against the scene.
        source: "endpoint", "cache" or "fallback".
        errors: what was wrong with the answers before.
    """

    program: Program
    source: str
    errors: tuple[str, ...] = ()


def _show(text: str) -> None:
    print(text, file=sys.stderr)


@dataclass
class RewardWriter:
    """Asks for reward programs.

    Args:
        endpoint: where.
        cache: folder for what was asked and answered; None keeps nothing.
        attempts: requests for one program at most, first and corrected ones together.
        fallback: used when none of them gave a valid program; None raises.
        show: told the program and its source, and every failed attempt; prints to stderr by default.
    """

    endpoint: Endpoint
    cache: str | Path | None = None
    attempts: int = 3
    fallback: Program | None = None
    show: Callable[[str], None] = field(default=_show)

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise BadInput(f"RewardWriter: attempts must be at least 1, got {self.attempts}.")

    def write(self, instruction: str, scene: Scene, axes: str, picture: np.ndarray | None = None) -> Written:
        """A reward for what is to be done in a scene.

        Args:
            instruction: in words.
            scene: of which row 0 is shown to the model: keypoints, extents, quantities.
            axes: what the world's axes are, in words: "+z up, -y left".
            picture: (H, W, 3) uint8 for models that see; None for words only.
        Raises:
            EndpointError: no valid program after all attempts, and no fallback.
        """
        messages: list[Message] = request(instruction, scene, axes, picture)
        place = None if self.cache is None else Path(self.cache) / f"{self._digest(messages)}.json"
        if place is not None and place.is_file():
            cached = self._cached(place, scene)
            if cached is not None:
                return self._shown(Written(cached, "cache"), instruction)
        errors: list[str] = []
        for attempt in range(1, self.attempts + 1):
            try:
                answer = self.endpoint.ask(messages)
            except EndpointError as error:
                self._failed(errors, attempt, str(error))
                continue
            try:
                program = parse(program_text(answer)).check(scene)
            except SteerError as error:
                self._failed(errors, attempt, str(error))
                correction = f"That is not a valid program: {error}\nAnswer with the corrected program only."
                messages = [
                    *messages,
                    {"role": "assistant", "content": answer},
                    {"role": "user", "content": correction},
                ]
                continue
            if place is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                asked = {"instruction": instruction, "url": self.endpoint.url, "model": self.endpoint.model}
                write_json(place, {**asked, "answer": answer, "program": program.text, "errors": errors})
            return self._shown(Written(program, "endpoint", tuple(errors)), instruction)
        told = "; ".join(f"({i}) {error}" for i, error in enumerate(errors, 1))
        if self.fallback is None:
            raise EndpointError(
                f"no valid reward program for {instruction!r} in {self.attempts} attempts: {told} "
                "Pass fallback= a program of your own, or write the reward by hand."
            )
        return self._shown(Written(self.fallback.check(scene), "fallback", tuple(errors)), instruction)

    def _digest(self, messages: Sequence[Message]) -> str:
        asked = {"model": self.endpoint.model, "temperature": self.endpoint.temperature, "messages": list(messages)}
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]

    def _cached(self, place: Path, scene: Scene) -> Program | None:
        try:
            return parse(json.loads(place.read_text())["program"]).check(scene)
        except (SteerError, ValueError, LookupError, TypeError, OSError) as error:
            self.show(f"{place} does not hold a valid answer ({error}); asking again")
            return None

    def _failed(self, errors: list[str], attempt: int, error: str) -> None:
        errors.append(error)
        self.show(f"attempt {attempt} of {self.attempts} for a reward failed: {error}")

    def _shown(self, written: Written, instruction: str) -> Written:
        self.show(f"reward for {instruction!r}, from {written.source}:\n{written.program.text.strip()}")
        return written


def program_text(answer: str) -> str:
    """The program in an answer: its one fenced block, or all of it.

    Raises:
        BadInput: several fenced blocks.
    """
    blocks = re.findall(r"```[a-zA-Z]*\n(.*?)```", answer, re.DOTALL)
    if len(blocks) > 1:
        raise BadInput(f"the answer has {len(blocks)} fenced blocks; one program is expected.")
    return str(blocks[0] if blocks else answer)


def request(instruction: str, scene: Scene, axes: str, picture: np.ndarray | None = None) -> list[Message]:
    """What the model is asked, as messages: the language, the scene of row 0, the instruction.

    Positions are rounded to centimetres and quantities to one digit, so that scenes that hardly differ share an answer.
    """
    points = "\n".join(
        f"- {name}: {_rounded(scene.point(name)[0].tolist())}"
        + (f", half extents {_rounded(scene.half_size(name)[0].tolist())}" if name in scene.half_sizes else "")
        for name in sorted(scene.keypoints)
    )
    quantities = ", ".join(sorted(scene.quantities)) or "none"
    asked = (
        f"Instruction: {instruction}\nAxes: {axes}\nKeypoints [x, y, z] in metres:\n{points}\nQuantities: {quantities}\n"
        "Write the reward program."
    )
    content: Any = asked
    if picture is not None:
        content = [{"type": "text", "text": asked}, {"type": "image_url", "image_url": {"url": _data_url(picture)}}]
    return [{"role": "system", "content": manual()}, {"role": "user", "content": content}]


def manual() -> str:
    """The reward language, explained to a model."""
    lines = [
        "You write reward programs that guide a robot's hand (its tool centre point, keypoint tcp) along its predicted path. "
        "The robot's own",
        "policy already does the task; a reward only says what the policy does not know. Answer with one YAML program and nothing else.",
        "",
        "stages:",
        "  - name: a name",
        "    reward: a list of terms, each 0 where satisfied; [] leaves the policy alone",
        "    done: a condition that begins the next stage; the last stage has none",
        "A term is one of the following, and may have `weight` (a positive number) and `when` (a condition while it counts):",
    ]
    for name, kind in TERMS.items():
        arguments = "; ".join(
            f"{key}: {one.says}" + ("" if one.default is ... else " (optional)") for key, one in kind.arguments.items()
        )
        lines.append(f"- {name}: {kind.says}. {arguments}")
    lines.append(
        "A condition looks at one thing, with `above` or `below` a number, in `done` also `release` (hysteresis):"
    )
    lines += [f"- {name}: {one.says}" for name, one in CONDITIONS.items()]
    lines.append(
        'Example of a term: {keep_out: {of: box, margin: 0.05, leave: "+z"}, when: {distance: [tcp, box], below: 0.3}}'
    )
    lines.append(
        "Use only keypoints and quantities that are listed. Only what is held hangs below the hand: leave room for it."
    )
    return "\n".join(lines)


def _rounded(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:.2f}" for value in values) + "]"


def _data_url(picture: np.ndarray) -> str:
    import imageio.v3 as iio

    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
        raise BadInput(f"RewardWriter: expected a picture (H, W, 3) uint8, got {picture.shape} {picture.dtype}.")
    return "data:image/png;base64," + base64.b64encode(iio.imwrite("<bytes>", picture, extension=".png")).decode()
