"""LeRobot's six policy types on tiny checkpoints: unsteered they are LeRobot's own, steered they obey the contract."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_lerobot import CAMERAS, CHUNK, INFOS, N_ACTION, N_ACTION_STEPS, STEPS, TASKS, observation

import policies.lerobot
import steer_agents as sa
from policies.errors import BadInput, DeadSite, MissingEntrance, NonFinite, UnknownSite
from policies.generative import DenoiseState
from policies.lerobot.types import TYPES
from policies.site_maps import site_maps
from steer_agents.baking import bake
from steer_agents.capture import Reader, moments, stream
from steer_agents.direction import Direction
from steer_agents.doctor import examine
from steer_agents.intervention import Intervention
from steer_agents.sites import Site, resolve, steerable

KINDS = ("smolvla", "pi0", "pi05", "pi0_fast", "diffusion", "act")
DENOISERS = ("smolvla", "pi0", "pi05", "diffusion")
FLOW = ("smolvla", "pi0", "pi05")
GOLDEN = json.loads((Path(__file__).parent / "hook_calls.json").read_text())
Shared = Callable[[str], Any]

STACKS = [(kind, stack) for kind in KINDS for stack in GOLDEN[kind]["stacks"]]


def chunk(policy: Any, rows: slice | None = None, seed: int = 7) -> torch.Tensor:
    """The (B, H, A) chunk of the made-up observation, or of some of its rows, from fixed noise."""
    batch = policy.stock.batch({**observation(policy.stock.config.type), "task": TASKS})
    batch = {name: value[rows or slice(None)] for name, value in batch.items()}
    noise = {}
    if policy.stock.kind.noise is not None:
        drawn = torch.randn(3, *policy.noise_shape, generator=torch.Generator().manual_seed(seed))
        noise = {"noise": drawn[rows or slice(None)]}
    with torch.no_grad():
        return policy.module(**noise, **batch)


def raw(policy: Any, rows: int = 3) -> list[dict[str, Any]]:
    """The made-up observation, unbatched, with its instructions."""
    seen = observation(policy.stock.config.type)
    return [
        {
            "pixels": {camera: seen["pixels"][camera][row] for camera in CAMERAS},
            "agent_pos": seen["agent_pos"][row],
            "instruction": TASKS[row],
        }
        for row in range(rows)
    ]


def direction(policy: Any, site: Site) -> Direction:
    """A random direction at all layers of a site."""
    place = steerable(policy)
    generator = torch.Generator().manual_seed(3)
    with Reader(place, resolve(place, site)) as reader:
        widths = {key: h.shape[-1] for key, h in reader.run(policy.encode(raw(policy, 1))[0]).items()}
    return Direction.from_raw({key: torch.randn(width, generator=generator) for key, width in widths.items()}, site)


def part(policy: Any, name: str, stack: str, strength: Any = 1.0, layer: Any = 0, **scope: Any) -> Intervention:
    """ "add" at the MLP's output, or "neurons" set in it."""
    if name == "add":
        found = direction(policy, Site("mlp_output", layer=layer, stack=stack))
        gate = {"gate": scope.pop("gate")} if "gate" in scope else {}
        site = Site("mlp_output", layer=layer, stack=stack, **scope)
        return sa.Add(found, strength=sa.Strength(strength), site=site, **gate)
    site = Site("mlp_neurons", layer=layer, stack=stack, **scope)
    return sa.SetNeurons(indices=(0, 3, 7), values=(4.0, -4.0, 6.0), site=site, strength=strength)


def dose(stack: str) -> float:
    return 30.0 if stack == "vision" else 8.0


# ---- unsteered


def test_every_type_has_a_site_map_a_tiny_checkpoint_and_a_row_in_the_readme() -> None:
    maps = {name.removeprefix("lerobot-") for name in site_maps() if name.startswith("lerobot-")}
    assert maps == {kind.replace("_", "-") for kind in TYPES}
    assert set(TYPES) == set(KINDS) == set(GOLDEN)
    readme = Path(policies.lerobot.__file__).with_name("README.md").read_text()
    assert all(f"| `{kind}` |" in readme for kind in TYPES)


@pytest.mark.parametrize("kind", KINDS)
def test_the_modules_that_fire_while_acting_are_those_of_the_golden_table(shared: Shared, kind: str) -> None:
    """If this fails after an upgrade of LeRobot, its call paths changed: check site maps and `passes.py` before the table."""
    policy = shared(kind)
    calls: dict[str, int] = {}
    handles = []
    for name, module in policy.stock.policy.named_modules():
        if "backbone" in name:
            continue
        calls[name] = 0

        def count(module: Any, args: Any, name: str = name) -> None:
            calls[name] += 1

        handles.append(module.register_forward_pre_hook(count))
    chunk(policy)
    for handle in handles:
        handle.remove()
    seen: dict[str, list[int]] = {}
    for name, n in calls.items():
        pattern = re.sub(r"\.\d+(?=\.|$)", ".*", name)
        seen[pattern] = sorted({*seen.get(pattern, []), n})
    assert seen == GOLDEN[kind]["calls"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_site_of_the_map_fires(shared: Shared, kind: str) -> None:
    policy = shared(kind)
    place = steerable(policy)
    assert list(place.site_map.stacks) == GOLDEN[kind]["stacks"]
    for stack, described in place.site_map.stacks.items():
        locations = [at for site in described.places for at in resolve(place, Site(site, stack=stack))]
        with Reader(place, locations, stop_early=False) as reader:
            chunk(policy)
            assert {at.key for at in locations} == set(reader.values)
            heads = [at for at in locations if at.kind == "attention_heads"]
            assert all(reader.values[at.key].shape[-1] % at.n_heads == 0 for at in heads)


@pytest.mark.parametrize("kind", KINDS)
def test_zero_strength_gives_lerobots_own_actions_bit_for_bit(shared: Shared, kind: str) -> None:
    from lerobot.envs.utils import preprocess_observation

    policy = shared(kind)
    stock = policy.stock
    noise = {}
    if kind in DENOISERS:
        noise = {"noise": policy.draw_noise()}
        policy.reset([1, 2, 3], INFOS)
    batch = stock.pre({**preprocess_observation(observation(kind)), "task": list(TASKS)})
    stock.policy.reset()
    if kind == "diffusion":
        own = [stock.policy.select_action(batch, **noise) for _ in range(N_ACTION_STEPS)]
        own = torch.stack(own, 1)
    else:
        own = stock.policy.predict_action_chunk(batch, **noise)
    expected = stock.post(own).numpy()
    stock.policy.reset()
    parts = [part(policy, name, stack, strength=0.0) for name in ("add", "neurons") for stack in GOLDEN[kind]["stacks"]]
    with sa.steer(policy, *parts):
        actions = [policy.act(observation(kind)).action for _ in range(N_ACTION_STEPS)]
    np.testing.assert_array_equal(np.stack(actions, 1), expected[:, :N_ACTION_STEPS])
    assert policy.context.phase is None
    assert policy.context.token_classes == {}
    assert policy.context.denoise_step is None


def test_diffusion_sees_the_last_steps_as_lerobot_does(shared: Shared) -> None:
    from lerobot.envs.utils import preprocess_observation

    policy, own = shared("diffusion"), shared("diffusion").stock.policy
    noises = [policy.draw_noise() for _ in range(2)]
    policy.reset([1, 2, 3], INFOS)
    own.reset()
    for step in range(N_ACTION_STEPS + 2):
        seen = observation("diffusion", seed=step)
        batch = policy.stock.pre(preprocess_observation(seen))
        expected = policy.stock.post(own.select_action(batch, noise=noises[step // N_ACTION_STEPS]))
        np.testing.assert_array_equal(policy.act(seen).action, expected.numpy())
    own.reset()


# ---- steered


@pytest.mark.parametrize("name", ["add", "neurons"])
@pytest.mark.parametrize(("kind", "stack"), STACKS)
def test_hooked_equals_baked_and_acts(shared: Shared, kind: str, stack: str, name: str) -> None:
    policy = shared(kind)
    plain, steered = chunk(policy), part(policy, name, stack, dose(stack))
    if name == "neurons":
        steered = part(policy, name, stack)
    with sa.steer(policy, steered):
        hooked = chunk(policy)
    with bake(policy, steered):
        baked = chunk(policy)
    assert (hooked - plain).abs().max() > 1e-4
    torch.testing.assert_close(baked, hooked, atol=2e-4, rtol=1e-4)
    assert torch.equal(chunk(policy), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_steered_each_by_its_own_strength_as_if_alone(shared: Shared, kind: str) -> None:
    policy = shared(kind)
    for stack in GOLDEN[kind]["stacks"][:2]:
        doses = [0.0, dose(stack), -dose(stack)]
        steered = part(policy, "add", stack, torch.tensor(doses))
        plain = chunk(policy)
        with sa.steer(policy, steered) as steering:
            together = chunk(policy)
            alone = []
            for row, strength in enumerate(doses):
                steering.set_strength(strength)
                alone.append(chunk(policy, slice(row, row + 1)))
        assert torch.equal(together[0], plain[0])
        assert not torch.equal(together[1], plain[1])
        torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", DENOISERS)
def test_a_sample_is_a_function_of_its_noise_and_rows_draw_from_their_own_seeds(shared: Shared, kind: str) -> None:
    policy, seen = shared(kind), observation(kind)
    noise = torch.randn(3, *policy.noise_shape)
    first = policy.sample(seen, noise)
    assert first.shape == (3, policy.chunk_size, N_ACTION)
    assert first.dtype == torch.float32
    assert torch.equal(first, policy.sample(seen, noise))
    assert not torch.equal(first, policy.sample(seen, noise + 1))
    drawn = [policy.sample(seen, generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*drawn)
    policy.reset([5, 6, 7], INFOS)
    one = policy.draw_noise()
    policy.reset([7, 6, 5], INFOS)
    assert torch.equal(policy.draw_noise(), one.flip(0))
    with pytest.raises(BadInput, match="expected noise of shape"):
        policy.sample(seen, noise[:, :1])
    with pytest.raises(NonFinite, match="noise"):
        policy.sample(seen, noise * torch.nan)


@pytest.mark.parametrize("kind", DENOISERS)
def test_a_hook_sees_every_denoise_step_and_bends_the_path(shared: Shared, kind: str) -> None:
    policy, seen = shared(kind), observation(kind)
    noise = torch.randn(3, *policy.noise_shape)
    states: list[DenoiseState] = []
    assert torch.equal(policy.sample(seen, noise, states.append), policy.sample(seen, noise))
    assert [state.denoise_step for state in states] == list(range(STEPS))
    assert states[-1].noise_level == pytest.approx(0)
    assert all(a.noise_level > b.noise_level for a, b in itertools.pairwise(states))
    torch.testing.assert_close(states[-1].to_action(states[-1].x), policy.sample(seen, noise), atol=1e-5, rtol=1e-5)

    checked = []

    def towards_one(state: DenoiseState) -> torch.Tensor:
        x = state.x.clone().requires_grad_()
        clean = state.estimate(x, max(state.noise_level, 0.05))
        (gradient,) = torch.autograd.grad((state.to_action(clean) - 1).pow(2).sum(), x)
        checked.append(bool(gradient.abs().sum() > 0))
        return state.x + 0.5 * (1 - state.x) - 1e-3 * gradient

    bent = policy.sample(seen, noise, towards_one)
    assert all(checked)
    assert not torch.allclose(bent, policy.sample(seen, noise), atol=1e-3)
    with pytest.raises(BadInput, match="expected noise of shape"):
        policy.sample(seen, noise, lambda state: state.x[:1])


def test_the_estimate_of_a_step_is_the_one_that_the_step_made(shared: Shared) -> None:
    for kind in DENOISERS:
        policy, seen = shared(kind), observation(kind)
        kept: list[tuple[torch.Tensor, float]] = []
        pairs: list[tuple[torch.Tensor, torch.Tensor]] = []

        def check(state: DenoiseState, kept: Any = kept, pairs: Any = pairs) -> None:
            if kept:
                pairs.append((state.estimate(*kept[-1]).detach(), state.clean))
            kept.append((state.x, state.noise_level))

        policy.sample(seen, torch.randn(3, *policy.noise_shape), check)
        assert len(pairs) == STEPS - 1
        for estimated, clean in pairs:
            torch.testing.assert_close(estimated, clean, atol=1e-4, rtol=1e-4)


# ---- scopes


def touched(policy: Any, steered: Intervention, run: Callable[[], Any]) -> list[list[list[int]]]:
    """1 for each token that a part changed at its site, for every pass through it."""
    (location,) = resolve(steerable(policy), steered.the_site)
    raw: list[torch.Tensor] = []
    seen: list[list[list[int]]] = []
    first = location.module.register_forward_hook(lambda m, a, out: raw.append(out.clone()))
    with sa.steer(policy, steered):

        def compare(module: Any, args: Any, out: torch.Tensor) -> None:
            moved = (out - raw[-1]).abs().amax(-1) > 1e-6
            seen.append((moved.T if location.axes == "NBD" else moved).int().tolist())

        last = location.module.register_forward_hook(compare)
        run()
        last.remove()
    first.remove()
    return seen


def test_token_classes_of_a_prefix_are_told_apart(shared: Shared) -> None:
    for kind, n_image, n_state in (("smolvla", 8, 1), ("pi0", 8, 0)):
        policy = shared(kind)
        (everything,) = touched(policy, part(policy, "add", "language", 8.0), lambda policy=policy: chunk(policy))
        n_tokens = len(everything[0])
        seen = {
            name: touched(
                policy,
                part(policy, "add", "language", 8.0, tokens=sa.token_class(name)),
                lambda policy=policy: chunk(policy),
            )
            for name in policy.site_map.stacks["language"].token_classes
        }
        assert all(len(calls) == 1 for calls in seen.values())
        assert seen["image"][0] == [[1] * n_image + [0] * (n_tokens - n_image)] * 3
        words = [sum(row) for row in seen["instruction"][0]]
        assert words[0] > words[1] > words[2] > 0
        for row, count in zip(seen["instruction"][0], words, strict=True):
            assert row == [0] * n_image + [1] * count + [0] * (n_tokens - n_image - count)
        if n_state:
            assert seen["state"][0] == [[0] * (n_tokens - 1) + [1]] * 3


def test_denoise_steps_and_action_tokens_of_the_expert_are_told_apart(shared: Shared) -> None:
    for kind, n_state in (("smolvla", 0), ("pi0", 1), ("pi05", 0)):
        policy = shared(kind)
        gated = part(policy, "add", "expert", 8.0, tokens=sa.token_class("action"), gate=sa.DenoiseSteps(1, 2), layer=1)
        row = [0] * n_state + [1] * CHUNK
        none = [[0] * len(row)] * 3
        assert touched(policy, gated, lambda policy=policy: chunk(policy)) == [none, [row] * 3, none]
        if n_state:
            state = part(policy, "add", "expert", 8.0, tokens=sa.token_class("state"), phase="decode")
            assert touched(policy, state, lambda policy=policy: chunk(policy)) == [[[1] + [0] * CHUNK] * 3] * STEPS


def test_prefill_and_decode_are_told_apart_where_tokens_are_generated(shared: Shared) -> None:
    policy = shared("pi0_fast")
    for scope in ({"phase": "decode"}, {"tokens": sa.token_class("action")}, {"tokens": "generated"}):
        prompt, *generated = touched(policy, part(policy, "add", "language", 8.0, **scope), lambda: chunk(policy))
        assert not np.any(prompt)
        assert len(generated) > 2
        assert np.all(generated)
    prompt, *generated = touched(
        policy, part(policy, "add", "language", 8.0, tokens="last", phase="prefill"), lambda: chunk(policy)
    )
    assert [row.index(1) for row in prompt] == [len(prompt[0]) - 1] * 3  # BOS, behind the padding
    assert np.sum(prompt) == 3
    assert not np.any(generated)


def test_the_tokens_of_act_are_told_apart(shared: Shared) -> None:
    policy = shared("act")
    (state,) = touched(
        policy, part(policy, "add", "encoder", 8.0, tokens=sa.token_class("state")), lambda: chunk(policy)
    )
    assert state == [[0, 1, 0, 0]] * 3  # latent, state, one feature per camera
    (image,) = touched(policy, part(policy, "add", "encoder", 8.0, tokens="image"), lambda: chunk(policy))
    assert image == [[0, 0, 1, 1]] * 3
    (action,) = touched(policy, part(policy, "add", "decoder", 8.0, phase="decode"), lambda: chunk(policy))
    assert action == [[1] * CHUNK] * 3


def test_env_steps_select_chunks_and_mix_with_other_scopes(shared: Shared) -> None:
    policy = shared("pi0")
    mixed = part(
        policy,
        "add",
        "expert",
        8.0,
        tokens=sa.token_class("action"),
        env_steps=(N_ACTION_STEPS, None),
        gate=sa.DenoiseSteps(0, 2) * sa.Window(0, 2 * N_ACTION_STEPS),
    )

    def run() -> None:
        for _ in range(2 * N_ACTION_STEPS + 1):
            policy.act(observation("pi0"))

    calls = touched(policy, mixed, run)
    assert len(calls) == 3 * STEPS
    hit = [[0] + [1] * CHUNK] * 3
    assert [call == hit for call in calls] == [False] * 3 + [True, True, False] + [False] * 3
    assert sum(np.sum(call) for call in calls) == 2 * np.sum(hit)


def test_scopes_that_mean_nothing_are_refused_with_what_exists(shared: Shared) -> None:
    policy = shared("pi0")
    with pytest.raises(UnknownSite, match=r"stack 'exprt' is not in lerobot-pi0; did you mean 'expert'"):
        sa.steer(policy, part(policy, "neurons", "exprt"))
    with pytest.raises(UnknownSite, match="layer 9 does not exist; this stack has 4 layers, 0 to 3"):
        sa.steer(policy, part(policy, "neurons", "expert", layer=9))
    with pytest.raises(UnknownSite, match=r"'state' is not in stack 'language'.*Allowed: image, instruction"):
        sa.steer(policy, part(policy, "neurons", "language", tokens=sa.token_class("state")))
    with pytest.raises(UnknownSite, match=r"'index' at stack 'language'.*token_class of image, instruction"):
        sa.steer(policy, part(policy, "neurons", "language", tokens=sa.index(0)))
    with pytest.raises(UnknownSite, match="'class' at stack 'vision'"):
        sa.steer(policy, part(policy, "neurons", "vision", tokens=sa.token_class("image")))
    with pytest.raises(UnknownSite, match="'block_output' is not in stack 'language' of lerobot-smolvla"):
        sa.steer(shared("smolvla"), sa.SetNeurons(indices=(0,), values=(1.0,), site=Site("block_output", layer=0)))
    gated = part(policy, "add", "language", gate=sa.DenoiseSteps(1))
    with sa.steer(policy, gated), pytest.raises(BadInput, match="no denoise step is running at this site"):
        chunk(policy)


@pytest.mark.parametrize("kind", FLOW)
def test_the_last_language_layer_of_a_flow_policy_cannot_act_and_is_refused(shared: Shared, kind: str) -> None:
    policy = shared(kind)
    for layer in (3, -1, 0.99):
        with pytest.raises(DeadSite, match=r"layer 3 of stack 'language'.*keys and values.*that act: \[0, 1, 2\]"):
            sa.steer(policy, part(policy, "neurons", "language", layer=layer))
    place = steerable(policy)
    assert [at.layer for at in resolve(place, Site("mlp_neurons"))] == [0, 1, 2]
    plain, last = chunk(policy), place.blocks("language")[-1][1][0]
    for module in (last.mlp, last.self_attn.o_proj):  # and it is true
        handle = module.register_forward_hook(lambda m, args, out: out + 5.0)
        assert torch.equal(chunk(policy), plain)
        handle.remove()


def test_an_entrance_that_is_missing_is_refused(shared: Shared) -> None:
    assert shared("act").entrances == {"modules"}
    assert shared("pi0").entrances == {"modules", "noise", "path"}
    with pytest.raises(MissingEntrance, match="decision"):
        sa.steer(shared("pi0"), sa.Temperature(2.0))


# ---- reading


def test_activations_are_read_where_a_scope_says_and_not_what_is_written_later(shared: Shared) -> None:
    policy = shared("smolvla")
    place, batches = steerable(policy), policy.encode(raw(policy))
    rows: dict[str, torch.Tensor] = {}
    for name, count in (("image", 24), ("state", 3)):
        site = Site("mlp_output", layer=(0, 1), tokens=sa.token_class(name))
        assert stream(place, batches, site, lambda key, h: rows.update({key: h})) == count
    kept: list[torch.Tensor] = []
    mlp = place.blocks("language")[0][1][0].mlp
    handle = mlp.register_forward_hook(lambda m, args, out: kept.append(out[:, -1].clone()))
    with torch.no_grad():
        policy.module(**batches[0])
    handle.remove()
    assert torch.equal(rows["language.0.mlp_output"], kept[0])  # LeRobot adds the residual into this tensor
    summary = moments(place, batches, Site("mlp_neurons", layer=0, stack="expert"))
    assert summary["expert.0.mlp_neurons"].n == 3 * CHUNK


def test_the_doctor_finds_nothing_wrong_on_inputs_that_it_makes_up(shared: Shared) -> None:
    checks = {check.name: check for check in examine(shared("smolvla"), n_calls=0)}
    assert [name for name, check in checks.items() if check.passed is False] == []
    assert sum(check.passed is True for check in checks.values()) >= 9


# ---- pi0-FAST's decision


def test_tokens_are_drawn_at_the_temperature_each_row_from_its_own_seed(shared: Shared) -> None:
    policy = shared("pi0_fast")
    seen = observation("pi0_fast")
    greedy = policy.act(seen)
    assert set(greedy.measures) == {"undecoded"}

    def actions(seeds: list[int], rows: slice) -> np.ndarray:
        policy.reset(seeds, INFOS[rows])
        part_of = {"pixels": {c: v[rows] for c, v in seen["pixels"].items()}, "agent_pos": seen["agent_pos"][rows]}
        return policy.act(part_of).action

    with sa.steer(policy, sa.Temperature(1.5)):
        together = actions([1, 2, 3], slice(0, 3))
        np.testing.assert_array_equal(together, actions([1, 2, 3], slice(0, 3)))
        np.testing.assert_array_equal(together[1:2], actions([2], slice(1, 2)))
        assert not np.array_equal(together, actions([4, 5, 6], slice(0, 3)))
    assert not np.array_equal(together, greedy.action)
    policy.reset([1, 2, 3], INFOS)
    np.testing.assert_array_equal(policy.act(seen).action, greedy.action)
    with pytest.raises(BadInput, match="at least 0, got -1"):
        policy.set_decision(temperature=-1)


def test_token_entropy_is_that_of_every_generated_token(shared: Shared) -> None:
    policy = shared("pi0_fast")
    (batch,) = policy.encode(raw(policy))
    heads: list[torch.Tensor] = []
    head = policy.module.policy.model.paligemma_with_expert.paligemma.lm_head
    handle = head.register_forward_hook(lambda module, args, out: heads.append(out[:, -1].double()))
    stock = policy.module(**batch)
    handle.remove()
    found = policy.token_entropy(batch)
    p = torch.stack(heads, dim=1).softmax(-1)
    torch.testing.assert_close(found.double(), -(p * p.log2()).sum(-1), atol=1e-4, rtol=1e-4)
    assert torch.equal(policy.module(**batch), stock)
    with pytest.raises(BadInput, match="says no action tokens"):
        shared("act").token_entropy({})


def test_drawn_tokens_follow_the_softmax(shared: Shared) -> None:
    policy = shared("pi0_fast")
    policy.reset(list(range(4000)), INFOS[:1] * 4000)
    policy.set_decision(temperature=2.0)
    logits = torch.tensor([0.0, 1.0, 2.0])
    drawn = policy._choose(logits.expand(4000, 1, 3))
    policy.set_decision(temperature=0.0)
    share = torch.bincount(drawn, minlength=3) / 4000
    torch.testing.assert_close(share, torch.softmax(logits / 2, 0), atol=0.03, rtol=0)


@pytest.mark.parametrize("kind", ["smolvla", "pi0", "pi0_fast"])
def test_language_stacks_name_their_tokens_and_experts_are_refused(shared: Callable[[str], Any], kind: str) -> None:
    policy = shared(kind)
    words = policy.vocabulary()
    target = steerable(policy)
    head = target.module.get_submodule(target.site_map.stacks["language"].head)
    assert len(words.tokens) == len(head.weight)
    assert bool(words.actions) == (kind == "pi0_fast")
    if kind == "pi0_fast":
        last = words.actions[-1]
        assert words.tokens[last] == "<action 0>"
        said = policy.stock.policy._paligemma_tokens_to_act_tokens(torch.tensor([last, last - 1]))
        assert said.tolist() == [0, 1]
        return
    with pytest.raises(BadInput, match=r"stack 'expert' .* has no vocabulary.*Stacks that have one: language"):
        sa.find(policy, "vocabulary", concept="slow", stack="expert")


@pytest.mark.parametrize("kind", ["act", "diffusion"])
def test_policies_that_read_no_text_have_no_vocabulary(shared: Callable[[str], Any], kind: str) -> None:
    assert shared(kind).vocabulary() is None
    with pytest.raises(BadInput, match="has no vocabulary"):
        sa.find(shared(kind), "vocabulary", concept="slow")


@pytest.mark.parametrize("kind", ["pi0", "pi05", "smolvla", "diffusion"])
def test_rewards_guide_the_samples_of_every_denoiser(shared: Shared, kind: str) -> None:
    from steer_agents.guidance import FeynmanKac, Kinematics, Prediction, RewardGuidance, Scene

    policy = shared(kind)
    kinematics = Kinematics((0, 1, 2), (0.05, 0.05, 0.05), 0.05)
    infos = [info | {"keypoints": {"tcp": np.zeros(3), "goal": np.array([0.3, 0.2, 0.1])}} for info in INFOS]

    def reward(prediction: Prediction, scene: Scene) -> torch.Tensor:
        return -(prediction.path - scene.point("goal")[:, None]).square().sum(-1).mean(1)

    def planned(**settings: Any) -> torch.Tensor:
        policy.reset([1, 2, 3], INFOS)
        part = RewardGuidance(reward, kinematics, **settings)
        with sa.steer(policy, part):
            policy.act(observation(kind), infos=infos)
        return torch.from_numpy(policy._chunk)

    def worth(chunk: torch.Tensor) -> float:
        path = chunk[..., :3].cumsum(1) * 0.05
        return -float((path - torch.tensor([0.3, 0.2, 0.1])).square().sum(-1).mean())

    policy.reset([1, 2, 3], INFOS)
    policy.act(observation(kind))
    stock = torch.from_numpy(policy._chunk)
    assert torch.equal(planned(strength=0.0), stock)
    for of in ("clean", "sample", "network"):
        assert worth(planned(strength=3.0, of=of)) > worth(stock)
    several = planned(strength=3.0, n_particles=3, feynman_kac=FeynmanKac(5.0))
    assert worth(several) > worth(stock)
    assert torch.equal(several, planned(strength=3.0, n_particles=3, feynman_kac=FeynmanKac(5.0)))
