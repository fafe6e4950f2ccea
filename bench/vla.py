"""What steering costs a policy that acts in chunks, and how long its value-vector table takes.

The tiny checkpoints are those of the tests (`tests/policies/lerobot/tiny_lerobot.py`): LeRobot's own code at sizes of a few thousand
weights, where the cost of Python shows most. One policy plays all contestants; attaching and taking off are not timed.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import policies
import steer_agents as sa
from bench import timing
from bench.cases import AGREE, Case, Row
from bench.contestants import BAKED, BARE, HOOKED, SECOND_COPY, UNSTEERED
from bench.tabletop import Stopwatch
from steer_agents.finding.value_vectors import measured_rate, neuron_table, projected_seconds
from steer_agents.sites import resolve, steerable
from steer_agents.tokens import token_class

SCOPED = "ours, hooked at action tokens"
WANTED, SECONDS_WANTED = 1.03, 20.0
STACKS = {"smolvla": "expert", "pi0": "expert", "smol-vla-135m": "language"}
"""Policy -> stack whose middle layer is steered."""
STRENGTHS = (1.0, 8.0, 64.0, 512.0)
"""Lengths of the push, the first that changes the actions is taken: action tokens are steps."""
OPENVLA_7B = {"n_neurons": 32 * 11008, "n_tokens": 32064, "hidden_size": 4096}


def chunks(name: str, rounds: int, turns: int = 2, patience: float = 120.0) -> Case:
    """CPU time of one chunk of actions, pictures and text included.

    Args:
        name: of `STACKS`.
        rounds: timed rounds, fewer where one of them would not fit `patience`.
        turns: chunks per contestant and round.
        patience: CPU seconds of the whole case.
    """
    policy, observation, infos = _policy(name)

    def act() -> np.ndarray:
        policy.reset([1], infos)
        action: np.ndarray = policy.act(observation).action
        return action

    plain = act()
    for strength in STRENGTHS:
        part = _push(policy, STACKS[name], strength)
        with sa.steer(policy, part):
            if np.abs(act() - plain).max() > AGREE:
                break
    else:
        raise RuntimeError(f"{name}: no push changes the actions, so that nothing would be compared.")
    location = resolve(steerable(policy), part.the_site)[0]
    vector = part.direction.vectors[location.key][0] * float(part.the_strength.value)

    def bare() -> Any:
        def push(module: Any, args: Any, output: Any) -> Any:
            return (output[0] + vector, *output[1:]) if isinstance(output, tuple) else output + vector

        return _Handle(location.module.register_forward_hook(push))

    scoped = sa.Add(part.direction, strength=part.strength, site=_at(policy, STACKS[name], token_class("action")))
    attach: dict[str, Callable[[], AbstractContextManager[Any]]] = {
        UNSTEERED: nullcontext,
        SECOND_COPY: nullcontext,
        BARE: bare,
        HOOKED: lambda: sa.steer(policy, part),
        SCOPED: lambda: sa.steer(policy, scoped),
        BAKED: lambda: sa.bake(policy, part),
    }

    with attach[BARE]():
        wanted = act()
    notes = {}
    for who in (HOOKED, BAKED):
        with attach[who]():
            off = float(np.abs(act() - wanted).max())
        notes[who] = f"actions within {off:.0e} of the bare hook's" + ("" if off <= AGREE else ": NOT equal work")
    clock = Stopwatch()

    def timed(who: str) -> Callable[[], None]:
        def job() -> None:
            with ExitStack() as stack:
                clock.untimed(lambda: stack.enter_context(attach[who]()))
                act()
                clock.untimed(stack.close)

        return job

    began = clock()
    act()
    one = clock() - began
    rounds = max(3, min(rounds, int(patience / (one * turns * len(attach)))))
    seconds = timing.interleave({who: timed(who) for who in attach}, rounds, turns=turns, clock=clock)
    found = timing.ratios(seconds, UNSTEERED)
    rows = [
        Row(who, found[who], [1e6 * value / turns for value in seconds[who]], note=notes.get(who, "")) for who in attach
    ]
    case = Case(
        f"chunk {name}", f"one chunk, one layer of the {STACKS[name]} steered, {rounds} rounds", UNSTEERED, rows, "us"
    )
    limit = 1 + timing.noise(found[SECOND_COPY])
    case.row(HOOKED).bound = timing.Bound("1.03", WANTED, case.median(HOOKED))
    case.row(BAKED).bound = timing.Bound("1 within noise", limit, case.median(BAKED))
    return case


def neurons() -> dict[str, Any]:
    """Seconds of the value-vector table of SmolLM2-135M, measured, and of OpenVLA's, projected at this machine's rate."""
    policy = policies.load("llm:smollm2-135m")
    policy.vocabulary()
    began, spent = time.perf_counter(), time.process_time()
    table = neuron_table(steerable(policy))
    seconds, cpu = time.perf_counter() - began, time.process_time() - spent
    rate = measured_rate(OPENVLA_7B["n_tokens"], OPENVLA_7B["hidden_size"], n_neurons=256)
    return {
        "smollm2-135m": {
            "neurons": table.n_neurons, "seconds": seconds, "cpu_seconds": cpu, "threads": torch.get_num_threads(),
            "bound": {"limit": SECONDS_WANTED, "holds": seconds < SECONDS_WANTED},
        },
        "openvla-7b": {"projected_seconds": projected_seconds(**OPENVLA_7B, rate=rate), "gflops": rate / 1e9},
    }  # fmt: skip


@dataclass(frozen=True)
class Costs:
    """One case per policy, and what `neurons` gives."""

    cases: list[Case]
    neurons: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The results as one JSON-able object."""
        return {
            "chunks": {
                case.name: {
                    row.name: {
                        "ratios": row.ratios,
                        "bound": row.bound and {"limit": row.bound.limit, "holds": row.bound.holds},
                    }
                    for row in case.rows
                }
                for case in self.cases
            },
            "value_vectors": self.neurons,
        }


def measure(rounds: int) -> Costs:
    """All policies on one thread, then the table on as many as there are cores."""
    cases = [chunks(name, rounds) for name in STACKS]
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        return Costs(cases, neurons())
    finally:
        torch.set_num_threads(threads)


def show(console: Console, costs: Costs, rounds: int) -> None:
    """Print a table per policy, and the value vectors in a sentence."""
    from bench import report

    for case in costs.cases:
        report.print_case(console, case, rounds)
    small, large = costs.neurons["smollm2-135m"], costs.neurons["openvla-7b"]
    holds = "holds" if small["bound"]["holds"] else "does NOT hold"
    console.print(
        f"value vectors of SmolLM2-135M, {small['neurons']} neurons: {small['seconds']:.1f} s on {small['threads']} threads "
        f"({small['cpu_seconds']:.1f} CPU s; bound {SECONDS_WANTED:g} s {holds}); OpenVLA-7B would take "
        f"{large['projected_seconds'] / 60:.0f} minutes at {large['gflops']:.0f} GFLOPS"
    )


class _Handle:
    """A hook as a context manager that is entered when it is made."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def _policy(name: str) -> tuple[Any, dict[str, Any], list[dict[str, Any]]]:
    """A policy of `STACKS`, one observation and its info."""
    if name in policies.registry.EMBEDDED:
        policy = policies.load(name)
        size = policy.config.camera_size
        rng = np.random.default_rng(0)
        pixels = {key: rng.integers(0, 256, (1, size, size, 3), dtype=np.uint8) for key in policy.config.cameras}
        seen = {"pixels": pixels, "agent_pos": np.zeros((1, 8), np.float32)}
        return policy, seen, [{"task_description": "put the red block on the plate"}]
    folder = str(Path(__file__).resolve().parent.parent / "tests" / "policies" / "lerobot")
    sys.path.insert(0, folder)
    try:
        import tiny_lerobot
    finally:
        sys.path.remove(folder)
    with tempfile.TemporaryDirectory() as place, tiny_lerobot.tiny_sizes():
        root = Path(place)
        tiny_lerobot.helpers(root)
        tiny_lerobot.write(name, root)
        policy = policies.load(f"lerobot:{root / name}", tokenizer=str(root / "tokenizer"))
    return policy, tiny_lerobot.observation(name, rows=1), tiny_lerobot.INFOS[:1]


def _at(policy: Any, stack: str, tokens: Any = "all") -> sa.Site:
    depth = steerable(policy).depth(stack)
    kind = "mlp_output" if stack == "expert" else "block_output"  # experts' blocks are not called as one module
    return sa.Site(kind, layer=(depth - 1) // 2, stack=stack, tokens=tokens)


def _push(policy: Any, stack: str, strength: float) -> Any:
    """A random direction, `strength` long."""
    site = _at(policy, stack)
    (location,) = resolve(steerable(policy), site)
    wide = next(p.shape[0] for n, p in location.module.named_parameters() if n.endswith("down_proj.weight"))
    vector = torch.randn(wide, generator=torch.Generator().manual_seed(0))
    return sa.Add(sa.Direction.from_raw({location.key: vector}, site), strength=sa.Strength(strength))
