"""The doctor passes healthy models, and finds the fault that was planted in a sick one."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from steering_parts import n_hooks
from tiny_models import ONE_PASS, TINY, TOKENLESS, WIDTH, image_inputs, inputs, outputs, tiny
from torch import nn

import steer_agents as sa
from policies.base import Decision, Home, Place, Policy, SiteMap, Stack
from policies.errors import BadInput, UnknownArchitecture
from policies.mlp import MLP, MLPConfig, MLPPolicy
from policies.site_maps import site_map_for
from steer_agents.doctor import Check, examine, render

N_CALLS = 60  # where memory matters; counting live tensors takes a second or two, so other tests leave it out
ALWAYS = [
    "same input, same output", "steering acts", "zero strength", "batch mates", "rows one by one", "hooked equals baked",
    "prefill and decode", "restored", "memory",
]  # fmt: skip


def results(checks: Sequence[Check]) -> dict[str, bool | None]:
    return {check.name: check.passed for check in checks}


def failed(checks: Sequence[Check]) -> set[str]:
    return {check.name for check in checks if check.passed is False}


def of(checks: Sequence[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


# ---- healthy


@pytest.mark.parametrize("name", TINY)
def test_healthy_models_pass_everything_and_are_left_alone(name: str) -> None:
    model, batch = tiny(name), inputs(name)
    before, state = outputs(model, batch), {key: value.clone() for key, value in model.state_dict().items()}
    n_calls = N_CALLS if name in ("mlp", "llama") else 0
    checks = examine(model, n_calls=n_calls)
    stacks = [f"sites fire ({stack})" for stack in site_map_for(model).stacks]
    assert [check.name for check in checks] == [ALWAYS[0], *stacks, *ALWAYS[1:]]
    absent = {"sites fire (vision)"} if name == "smolvlm" else set()
    absent |= {"prefill and decode"} if name in (*TOKENLESS, *ONE_PASS) else set()
    absent |= set() if n_calls else {"memory"}
    assert {check: passed for check, passed in results(checks).items() if passed is not True} == dict.fromkeys(absent)
    assert all(not check.advice for check in checks if check.passed)
    assert n_hooks(model) == 0
    assert torch.equal(outputs(model, batch), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert len(model.state_dict()) == len(state)


def test_the_vision_tower_is_examined_when_there_is_an_image() -> None:
    checks = examine(tiny("smolvlm"), image_inputs(2), n_calls=0)
    assert {check.name for check in checks if not check.passed} == {"memory"}
    assert of(checks, "sites fire (vision)").value == "10 of 10 sites"
    without = of(examine(tiny("smolvlm"), inputs("smolvlm"), n_calls=0), "sites fire (vision)")
    assert without.passed is False  # the user's own inputs were to reach it
    assert without.value == "0 of 10 sites"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_tolerance_follows_the_dtype(dtype: torch.dtype) -> None:
    checks = examine(tiny("llama").to(dtype), n_calls=0)
    assert failed(checks) == set()
    share = {torch.bfloat16: "0.05", torch.float16: "0.01", torch.float64: "1e-06"}[dtype]
    assert of(checks, "rows one by one").expected == f"within {share} of the largest output"


class Reader(Policy):
    """A language policy as far as the doctor needs one: prompts of different lengths, padded left."""

    def __init__(self) -> None:
        super().__init__()
        self.name, self.module, self.asked = "reader", tiny("gpt2"), []

    def encode(self, inputs: Sequence[str]) -> list[Mapping[str, Any]]:
        self.asked += inputs
        width = max(map(len, inputs))
        ids = torch.tensor([[0] * (width - len(text)) + [ord(c) % 50 + 3 for c in text] for text in inputs])
        mask = (ids > 0).long()
        return [{"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}]

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None: ...

    def _act(self, observation: Any, active: np.ndarray) -> Decision:
        raise NotImplementedError


def test_policies_are_examined_through_their_module() -> None:
    policy = Reader()
    assert set(results(examine(policy, n_calls=N_CALLS)).values()) == {True}
    assert len(policy.asked) == 3
    assert failed(examine(policy, ["one", "two words"], n_calls=0)) == set()
    config = MLPConfig(6, 4, (WIDTH,) * 3)
    assert failed(examine(MLPPolicy(MLP(config), config), n_calls=0)) == set()


def test_progress_is_told_the_name_of_each_check() -> None:
    names: list[str] = []
    checks = examine(tiny("mlp"), n_calls=0, progress=names.append)
    assert names == [check.name for check in checks]


def test_the_table_shows_every_check() -> None:
    checks = [
        Check("zero strength", True, "bit-identical", "bit-identical"),
        Check("memory", False, "+9 tensors [per call]", "no new tensors", "Look first for lists."),
        Check("prefill and decode", None, "", "within 0.1", "No cache."),
    ]
    console = Console(file=io.StringIO(), width=200)
    console.print(render(checks))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for word in ("ok", "FAILED", "n/a", "+9 tensors [per call]", "Look first for lists.", "No cache."):
        assert word in text


def test_what_cannot_be_examined_is_refused() -> None:
    class Blind(Policy):
        _reset = _act = None  # type: ignore[assignment]

    with pytest.raises(BadInput, match="has no modules to steer"):
        examine(Blind.__new__(Blind))
    with pytest.raises(UnknownArchitecture):
        examine(nn.Linear(2, 2))
    mute = type("Mute", (Reader,), {"encode": Policy.encode})()
    with pytest.raises(BadInput, match="pass batches of module inputs"):
        examine(mute)
    with pytest.raises(BadInput, match="no tensor with rows"):
        examine(tiny("llama"), {"use_cache": False})


# ---- sick


CONFIG, SITE_MAP = MLPConfig(6, 4, (WIDTH,) * 3), site_map_for(tiny("mlp"))


class Patient(MLP):
    """A healthy MLP to plant faults in."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(CONFIG)


class Bypass(Patient):
    """Uses the weights of the second layer without calling its modules."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.net[1](self.net[0](x))
        x = torch.tanh(nn.functional.linear(x, self.net[2].weight, self.net[2].bias))
        return self.net[6](self.net[5](self.net[4](x)))


class MixesRows(Patient):
    """Subtracts the batch mean in the middle, as a batch norm in training mode does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.net[3](self.net[2](self.net[1](self.net[0](x))))
        return self.net[6](self.net[5](self.net[4](x - x.mean(0))))


class WritesInPlace(Patient):
    """Keeps one buffer for all rows and writes into it: what row 1 does ends up in row 2."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.net[3](self.net[2](self.net[1](self.net[0](x))))
        for i in range(1, len(h)):
            h[i] += 0.1 * h[i - 1]
        return self.net[6](self.net[5](self.net[4](h)))


class Random(Patient):
    """Drops out in evaluation too."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(nn.functional.dropout(x, 0.5, training=True))


class Repeats(Patient):
    """Runs its second layer twice."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.net[3](self.net[2](self.net[1](self.net[0](x))))
        return self.net[6](self.net[5](self.net[4](self.net[3](self.net[2](x)))))


class Dead(Patient):
    """Computes its second layer and throws the result away."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.net[1](self.net[0](x))
        self.net[3](self.net[2](x))
        return self.net[6](self.net[5](self.net[4](x)))


class Hoards(Patient):
    """Appends what it sees to a list."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.__dict__.setdefault("history", []).append(x * 1.0)
        return self.net(x)


class GrowsHooks(Patient):
    """Registers a hook on itself at every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.net[0].register_forward_hook(lambda module, args, output: None)
        return self.net(x)


@pytest.mark.parametrize(
    ("sick", "found", "word"),
    [
        (Bypass, {"sites fire (policy)"}, "policy.1.block_output (net.3)"),
        (MixesRows, {"batch mates", "rows one by one", "hooked equals baked"}, "mixes rows"),
        (WritesInPlace, {"batch mates", "rows one by one", "hooked equals baked"}, "mixes rows"),
        (Repeats, {"sites fire (policy)", "hooked equals baked"}, "several times per pass"),
        (Dead, {"steering acts", "batch mates", "hooked equals baked"}, "What these give is not used: net.3."),
        (Hoards, {"memory"}, "lists that the model itself appends to"),
        (GrowsHooks, {"restored"}, "report it"),
    ],
)
def test_the_planted_fault_is_found(sick: type[Patient], found: set[str], word: str) -> None:
    checks = examine(sick(), site_map=SITE_MAP, n_calls=N_CALLS if sick is Hoards else 0)
    assert failed(checks) == found
    assert any(word in check.advice for check in checks if check.passed is False)


def test_a_random_model_is_told_so_first() -> None:
    checks = examine(Random(), site_map=SITE_MAP, n_calls=0)
    first = checks[0]
    assert first.name == "same input, same output"
    assert first.passed is False
    assert "model.eval()" in first.advice
    assert {"zero strength", "restored"} <= failed(checks)  # and nothing is called bit-identical that is not


def test_a_wrong_home_in_the_site_map_is_found_by_baking() -> None:
    places = {"mlp_output": Place("mlp", home=Home("mlp.up_proj"))}
    site_map = SiteMap("wrong", {"language": Stack("model.layers", places)})
    model = tiny("llama")
    model.config.intermediate_size = WIDTH
    for layer in model.model.layers:  # as wide inside as outside, so that only the numbers give it away
        layer.mlp = type(layer.mlp)(model.config)
    checks = examine(model, site_map=site_map, n_calls=0)
    assert failed(checks) == {"hooked equals baked"}
    assert "`home` is not what writes that site" in of(checks, "hooked equals baked").advice


def test_a_decode_path_that_leaves_the_blocks_out_is_found() -> None:
    model = tiny("llama")
    whole = type(model).forward

    def forward(self: Any, input_ids: torch.Tensor, past_key_values: Any = None, **options: Any) -> Any:
        out = whole(self, input_ids=input_ids, past_key_values=past_key_values, **options)
        if past_key_values is None:
            return out
        frozen = tiny("llama")  # a compiled or fused copy: same numbers, other modules
        options["past_key_values"] = past_key_values
        past_key_values.crop(past_key_values.get_seq_length() - input_ids.shape[1])
        for block in self.model.layers:  # the modules themselves were not called, as far as hooks can tell
            block._forward_hooks, block.kept = {}, block._forward_hooks
        fresh = whole(frozen, input_ids=input_ids, **options)
        for block in self.model.layers:
            block._forward_hooks = block.kept
        return fresh

    model.forward = forward.__get__(model)
    checks = examine(model, n_calls=0)
    assert failed(checks) == {"prefill and decode"}
    assert "Steered keys and values do not stay" in of(checks, "prefill and decode").advice


def test_a_cache_that_is_wrong_by_itself_is_told_apart_from_steering() -> None:
    model = tiny("llama")
    whole = type(model).forward

    def forward(self: Any, input_ids: torch.Tensor, past_key_values: Any = None, **options: Any) -> Any:
        if past_key_values is not None:
            past_key_values.crop(past_key_values.get_seq_length() - 1)  # forgets a token
        return whole(self, input_ids=input_ids, past_key_values=past_key_values, **options)

    model.forward = forward.__get__(model)
    checks = examine(model, n_calls=0)
    assert failed(checks) == {"prefill and decode"}
    assert "without steering too" in of(checks, "prefill and decode").advice


def test_a_model_that_raises_fails_its_checks_with_the_message_and_nothing_else_happens() -> None:
    class Broken(Patient):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError("planted")

    checks = examine(Broken(), site_map=SITE_MAP, n_calls=0)
    assert set(results(checks).values()) <= {False, None}
    assert of(checks, "zero strength").value == "ZeroDivisionError: planted"
    assert of(checks, "prefill and decode").passed is None


def test_one_broken_stack_does_not_hide_the_other_findings() -> None:
    whole = site_map_for(tiny("llama")).stacks["language"]
    broken = Stack("model.blocks", {"block_output": Place("")})
    checks = examine(tiny("llama"), site_map=SiteMap("two", {"language": whole, "extra": broken}), n_calls=0)
    extra = of(checks, "sites fire (extra)")
    assert extra.passed is False
    assert "'model.blocks' breaks at 'blocks'" in extra.value
    assert failed(checks) == {"sites fire (extra)", "hooked equals baked"}  # fingerprints cover every stack


def test_outputs_without_one_entry_per_row_are_named() -> None:
    class Summed(Patient):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x).sum(0, keepdim=True)

    (check,) = (c for c in examine(Summed(), site_map=SITE_MAP, n_calls=0) if c.name == "batch mates")
    assert check.passed is False
    assert "one entry per row" in check.value


def test_the_doctor_is_a_public_name() -> None:
    assert sa.examine is examine
