"""Inference in another process: asked and answered through a pipe, started again with a growing pause when it dies.

The process loads the recipe; this one loads no network. Messages are `wire`'s: nothing that arrives can run anything. (What the
process is started with goes through multiprocessing's own pickle, from us to our own child.)
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

from launch.policy_inference import PolicyInference
from launch.robot.contract import Chunk, Knob, Recipe
from launch.robot.wire import pack, unpack
from policies.errors import BadArtifact, BadInput, SteerError
from steer_agents.envelope import SafetyEnvelope

BACK_OFF = (0.2, 0.5, 1.0, 2.0, 4.0)
"""Pauses before a process that died is started again [s]; when they are used up, it stays dead and the arm holds."""
LOADING = 180.0
"""Longest time that loading a recipe may take [s]."""


@dataclass(frozen=True)
class Hello:
    """What a process says once its recipe is loaded.

    Args:
        policy: its name; envelope: the recipe's.
        knobs: strengths that may be changed.
        length, executed: actions of a chunk, and how many of them the policy would execute before the next.
    """

    policy: str
    envelope: SafetyEnvelope
    knobs: list[Knob]
    length: int
    executed: int


NO_ANSWER = "no answer"
"""In the tally: a server did not answer in time."""


@dataclass
class Tally:
    """What happened so far, by name."""

    counts: dict[str, int] = field(default_factory=dict)
    last_error: str = ""

    def add(self, name: str) -> None:
        """Count one more."""
        self.counts[name] = self.counts.get(name, 0) + 1


class InferenceProcess:
    """An `Asker` around a process that holds the policy.

    Args:
        recipe: loads policy, steerer and envelope over there.
        dt: seconds between two actions of the policy.
        stall: a process that has not answered for this long is killed and started again [s].
        back_off: pauses before each new start [s].

    Attributes:
        hello: what it said when it was first ready; tally: deaths, restarts and errors so far.
    """

    def __init__(self, recipe: Recipe, dt: float, stall: float = 10.0, back_off: tuple[float, ...] = BACK_OFF) -> None:
        self._recipe, self._dt, self._stall, self._back_off = recipe, dt, stall, back_off
        self._context = multiprocessing.get_context("spawn")
        self.tally = Tally()
        self._up = False
        self._process: Any = None
        self._pipe: Connection | None = None
        self._asked_at: float | None = None
        self._restart_at: float | None = None
        self._episode: tuple[int, dict[str, Any]] = (0, {})
        self._spawn()
        self.hello = self._first_hello()

    @property
    def ready(self) -> bool:
        """Loaded, and nothing is asked."""
        return self._up and self._asked_at is None

    @property
    def pid(self) -> int:
        """Of the process now."""
        return int(self._process.pid)

    def reset(self, seed: int, info: Mapping[str, Any]) -> None:
        """Start an episode, also after every restart."""
        plain = {name: value for name, value in info.items() if isinstance(value, str | int | float | bool)}
        self._episode = (seed, plain)
        if self._up:
            self._send("reset", seed=seed, info=plain)

    def ask(
        self, observation: Mapping[str, Any], observed_at: float, steered: bool, strengths: Mapping[str, float]
    ) -> None:
        """See `Asker`."""
        if not self.ready:
            raise BadInput("inference process: ask one thing at a time, when it is ready.")
        fields = {"observation": observation, "observed_at": observed_at, "steered": steered, "strengths": strengths}
        if self._send("infer", **fields):
            self._asked_at = time.monotonic()

    def answer(self, now: float) -> Chunk | None:
        """See `Asker`."""
        if self._restart_at is not None:
            if now >= self._restart_at:
                self._restart_at = None
                self.tally.add("restart")
                self._spawn()
            return None
        if self._pipe is None:
            return None
        try:
            if not self._pipe.poll(0):
                if not self._process.is_alive():
                    self._died(now, "died")
                elif self._asked_at is not None and now - self._asked_at > self._stall:
                    self._died(now, "stalled")
                return None
            kind, fields = unpack(self._pipe.recv_bytes())
        except (EOFError, OSError, BadArtifact):
            self._died(now, "died")
            return None
        if kind == "hello":
            self._welcome()
            return None
        self._asked_at = None
        if kind == "error":
            self.tally.add(NO_ANSWER if fields.get("late") else "error")
            self.tally.last_error = str(fields["text"])
            return None
        return Chunk(**fields)

    def waiting(self, now: float) -> float:
        """See `Asker`; while it is started again it counts as asked."""
        return 0.0 if self._asked_at is None else max(now - self._asked_at, 0.0)

    def close(self) -> None:
        """End the process."""
        self._up, self._restart_at = False, None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        if self._process is not None:
            self._process.join(0.5)
            if self._process.is_alive():
                self._process.kill()
                self._process.join()

    def _spawn(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        self._process = self._context.Process(
            target=_serve, args=(theirs, self._recipe, self._dt), name="inference", daemon=True
        )
        self._process.start()
        theirs.close()

    def _first_hello(self) -> Hello:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(LOADING):
                raise SteerError(f"inference process: the recipe did not load within {LOADING:g} s.")
            kind, fields = unpack(self._pipe.recv_bytes())
        except EOFError:
            raise SteerError(
                "inference process: it ended while it loaded the recipe; its own message is above."
            ) from None
        if kind == "error":
            self.close()
            raise SteerError(f"inference process: the recipe did not load: {fields['text']}")
        self._welcome()
        fields["envelope"] = SafetyEnvelope.from_mapping(fields["envelope"])
        fields["knobs"] = [Knob(**knob) for knob in fields["knobs"]]
        return Hello(**fields)

    def _welcome(self) -> None:
        self._up, self._asked_at = True, None
        seed, info = self._episode
        self._send("reset", seed=seed, info=info)

    def _send(self, kind: str, **fields: Any) -> bool:
        try:
            assert self._pipe is not None
            self._pipe.send_bytes(pack(kind, fields))
        except OSError:
            self._died(time.monotonic(), "died")
            return False
        return True

    def _died(self, now: float, how: str) -> None:
        self.tally.add(how)
        self._up, self._asked_at = False, None
        if self._process.is_alive():
            self._process.kill()
        self._process.join(0)  # reaped by the next start if it is not over yet: the control loop does not wait
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None
        starts = self.tally.counts.get("restart", 0)
        if starts < len(self._back_off):
            self._restart_at = now + self._back_off[starts]
        else:
            self.tally.add("given up")


def _serve(pipe: Connection, recipe: Recipe, dt: float) -> None:
    """The other process: load, say hello, answer until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the control process
    try:
        loaded = recipe()
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        if hasattr(loaded, "inference"):
            inference: Any = loaded.inference(dt)
        else:
            assert loaded.policy is not None
            knobs, turn = getattr(loaded, "knobs", ()), getattr(loaded, "turn", None)
            inference = PolicyInference(loaded.policy, loaded.steerer, dt, knobs, turn)
        envelope = loaded.envelope.to_mapping()
    except Exception as error:
        pipe.send_bytes(pack("error", {"text": f"{type(error).__name__}: {error}"}))
        return
    hello = {
        "policy": inference.policy_name, "envelope": envelope, "knobs": [dict(vars(knob)) for knob in inference.knobs()],
        "length": inference.length, "executed": inference.executed,
    }  # fmt: skip
    try:
        pipe.send_bytes(pack("hello", hello))
        while True:
            kind, fields = unpack(pipe.recv_bytes())
            try:
                if kind == "reset":
                    inference.reset(fields["seed"], fields["info"])
                    continue
                for part, value in fields["strengths"].items():
                    inference.set_strength(part, value)
                chunk = inference.infer(fields["observation"], fields["observed_at"], fields["steered"])
                reply = pack("chunk", vars(chunk))
            except Exception as error:  # one bad question must not end the process
                text, late = f"{type(error).__name__}: {error}", isinstance(error, TimeoutError)
                reply = pack("error", {"text": text, "late": late})
            pipe.send_bytes(reply)
    except (EOFError, OSError):
        inference.close()
