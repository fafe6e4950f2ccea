"""Vectors learned from preferences: pushed forwards a model prefers the chosen answer, pushed backwards the rejected one.

For a prompt x, a chosen answer y+ and a rejected one y-, and kappa in {+1, -1} drawn at every step:

    margin(m) = [log p_m(y+|x) - log p_0(y+|x)] - [log p_m(y-|x) - log p_0(y-|x)]
    L = -log sigmoid(kappa beta margin(kappa))

p_m is the model with h -> h + m v at all tokens of one block output (`bipo`), or with the edit `SaeShift` of strength m in the code of an
SAE (`yapo`: relu(z + m c) decoded, the reconstruction error kept, so that c = 0 is the exact identity). Model and SAE are frozen.

Sources: BiPO, Cao et al. 2024, arXiv 2406.00045; YaPO, Bounhar et al. 2026, arXiv 2601.08441. We differ in: Adam without weight
decay, with a cosine and no warm-up; early stop on held-out triples, of both signs together; reference log-probabilities are worked
out once, not at every step (the released YaPO trainer calls itself reference-free and works them out with the multiplier at 0);
kappa is drawn per example, not per batch, which has the same mean. As released, YaPO has no L1 penalty: "sparse" says in which
basis, not how many entries are 0; `l1` adds one.

The trap: a dense vector is odd in m, a code under relu is not, so that what YaPO does at -1 is no mirror of +1. Both signs are
measured on held-out triples and kept in `info`: `margins` and `signs` (share with the sign of m) at m = -2, -1, 1, 2, and
`oddness` = ||D(1) + D(-1)|| / ||D(1)|| of the displacement D.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.learning.trainer import Settings, cosine, split, train
from steer_agents.passes import edited
from steer_agents.sae.edits import SaeShift, shift_code
from steer_agents.sae.model import Sae
from steer_agents.sites import Site, Steerable, resolve

MULTIPLIERS = (-2.0, -1.0, 1.0, 2.0)

Displace = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(h (B, N, D), multipliers (B, 1, 1)) -> h', with a graph to what is learned."""


@dataclass(frozen=True)
class Triple:
    """A prompt and two answers to it, as token ids; no answer is empty."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    def __post_init__(self) -> None:
        if not (self.prompt and self.chosen and self.rejected):
            raise BadInput("a preference needs a prompt and two answers of at least one token each.")
        if self.chosen == self.rejected:
            raise BadInput(
                f"a preference between two equal answers {list(self.chosen)[:8]} says nothing; leave it out."
            )


def triples_of(tokenizer: Any, texts: Sequence[tuple[str, str, str]]) -> list[Triple]:
    """Triples of (prompt, chosen, rejected) texts, through a Hugging Face tokenizer: `triples_of(policy.tokenizer, ...)`.

    Where an answer ends is a preference only if its end is in it: write `text + policy.tokenizer.eos_token` for an answer that is
    complete. A brevity vector learned without ends learns what short answers say instead of stopping (measured in
    `launch/methods_bench/RESULTS.md`).
    """

    def ids(text: str, special: bool) -> tuple[int, ...]:
        return tuple(tokenizer(text, add_special_tokens=special)["input_ids"])

    return [Triple(ids(x, True), ids(plus, False), ids(minus, False)) for x, plus, minus in texts]


def log_probabilities(module: torch.nn.Module, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> torch.Tensor:
    """(B,) log p(answer | prompt) in nats, summed over the answer's tokens; rows are (prompt, answer), padded to the right."""
    device = next(module.parameters()).device
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    real, answered = torch.zeros_like(ids), torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(rows):
        n = len(prompt) + len(answer)
        ids[i, :n] = torch.tensor((*prompt, *answer))
        real[i, :n] = 1
        answered[i, len(prompt) : n] = True
    ids, real, answered = ids.to(device), real.to(device), answered.to(device)
    logits = module(input_ids=ids, attention_mask=real, use_cache=False).logits[:, :-1].float()
    told = logits.log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    return (told * answered[:, 1:]).sum(1)


def preference_loss(margin: torch.Tensor, kappa: torch.Tensor, beta: float) -> torch.Tensor:
    """Mean of -log sigmoid(kappa beta margin), margins (B,) taken with the edit at kappa (B,) in {+1, -1}."""
    return -torch.nn.functional.logsigmoid(kappa * beta * margin).mean()


def bipo(
    target: Steerable,
    *,
    triples: Sequence[Triple],
    site: Site,
    beta: float = 0.1,
    held_out: float = 0.2,
    settings: Settings | None = None,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> Direction:
    """A dense direction learned from preferences; its raw norm is that of v, so `Strength(m, "beta")` is the paper's multiplier m.

    Args:
        target: a causal language model, or a policy of one.
        triples: see `Triple`, `triples_of`.
        site: one layer; v is added at all tokens.
        beta: of the loss, positive.
        held_out: share of the triples that ends the training and is reported on.
        settings, folder, progress: see `trainer.train`.
    Returns:
        a direction with the `info` of the module's docstring.
    """
    setting = _Setting(target, triples, site, beta, held_out, settings)
    v = torch.zeros(setting.width, requires_grad=True)
    notes = setting.learn({"v": v}, lambda h, m: h + m * v.to(h), lambda: 0.0, folder, progress, "bipo")
    statistics = capture.statistics_of_rows(setting.rows, v.detach() / v.detach().norm().clamp(min=1e-30))
    where = Site(site.kind, setting.location.layer, site.stack)
    return Direction.from_raw(
        {setting.location.key: v.detach()}, where, {setting.location.key: statistics}, method="bipo",
        model=model_fingerprint(target), info=notes,
    )  # fmt: skip


def yapo(
    target: Steerable,
    *,
    triples: Sequence[Triple],
    sae: Sae,
    beta: float = 0.1,
    l1: float = 0.0,
    held_out: float = 0.2,
    settings: Settings | None = None,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> SaeShift:
    """A shift of an SAE's code learned from preferences; its strength is the multiplier m.

    Args:
        sae: of this model; it says where.
        l1: weight of the mean |c| of the code, from 0.
        others: see `bipo`.
    """
    if l1 < 0:
        raise BadInput(f"yapo: l1 must be at least 0, got {l1}.")
    sae.key_on(target)
    setting = _Setting(target, triples, replace(sae.site, tokens="all"), beta, held_out, settings)
    sae.check_width(setting.rows)
    code = torch.zeros(sae.n_features, requires_grad=True)

    def displace(h: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return shift_code(h, sae.weights, sae.form, code, m)

    asked = {"sae": sae.fingerprint, "l1": l1}
    notes = setting.learn({"code": code}, displace, lambda: l1 * code.abs().mean(), folder, progress, "yapo", asked)
    learned = sae if sae.model else replace(sae, model=model_fingerprint(target))
    return SaeShift(learned, code=code.detach().clone(), info={**notes, "n_used": int((code != 0).sum())})


class _Setting:
    """What both methods share: the frozen model, the site, the triples and what is measured on them."""

    def __init__(
        self,
        target: Steerable,
        triples: Sequence[Triple],
        site: Site,
        beta: float,
        held_out: float,
        settings: Settings | None,
    ) -> None:
        if not beta > 0:
            raise BadInput(f"preferences: beta must be positive, got {beta}.")
        locations = resolve(target, site)
        if len(locations) != 1 or site.scoped:
            raise BadInput(
                "preferences: the site must be one layer, at all tokens and steps; steer with a narrower one."
            )
        self.module, self.location, self.beta = target.module, locations[0], beta
        self.settings = settings or Settings(steps=400, learning_rate=5e-3, batch_size=4, evaluate_every=20)
        self.fitted, self.kept = split(list(triples), held_out, self.settings.seed)
        self.data = data_fingerprint(*[[list(t.prompt), list(t.chosen), list(t.rejected)] for t in triples])
        batches = [{"input_ids": torch.tensor([[*t.prompt, *t.chosen]])} for t in self.kept[:32]]
        self.rows = capture.rows(target, batches, site)[self.location.key]
        self.width = self.rows.shape[1]
        with torch.no_grad():
            self.reference = {id(t): self._log_ratio([t]) for t in (*self.fitted, *self.kept)}

    def _log_ratio(self, triples: Sequence[Triple]) -> torch.Tensor:
        """(B,) log p(y+|x) - log p(y-|x), as the model is now."""
        rows = [(t.prompt, t.chosen) for t in triples] + [(t.prompt, t.rejected) for t in triples]
        plus, minus = log_probabilities(self.module, rows).split(len(triples))
        return plus - minus

    def margins(self, triples: Sequence[Triple], displace: Displace, m: torch.Tensor) -> torch.Tensor:
        """(B,) margins with the edit at m (B,)."""
        with edited(self.location, lambda h: displace(h.detach(), torch.cat([m, m]).to(h).reshape(-1, 1, 1))):
            now = self._log_ratio(triples)
        return now - torch.cat([self.reference[id(t)] for t in triples])

    def learn(
        self,
        parameters: Mapping[str, torch.Tensor],
        displace: Displace,
        penalty: Callable[[], float | torch.Tensor],
        folder: str | Path | None,
        progress: bool | None,
        title: str,
        asked: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Train, and measure on the held-out triples."""
        settings = self.settings

        def loss(step: int) -> torch.Tensor:
            picks = torch.randint(len(self.fitted), (settings.batch_size,)).tolist()
            kappa = torch.randint(2, (settings.batch_size,)).float() * 2 - 1
            found = self.margins([self.fitted[i] for i in picks], displace, kappa)
            return preference_loss(found, kappa.to(found), self.beta) + penalty()

        def both_signs() -> float:
            signs = [torch.full((len(self.kept),), sign) for sign in (1.0, -1.0)]
            values = [preference_loss(self.margins(self.kept, displace, kappa), kappa, self.beta) for kappa in signs]
            return float(sum(values) / 2 + penalty())

        trained = train(
            parameters, loss, both_signs, settings, folder, rate=cosine, title=title, progress=progress,
            asked={"method": title, "data": self.data, "beta": self.beta, **(asked or {})},
        )  # fmt: skip
        if all(not bool(tensor.any()) for tensor in parameters.values()):
            raise BadInput(
                f"{title}: nothing that was learned is better on the {len(self.kept)} held-out triples than no edit at all; give more "
                "triples, another layer, more steps or another learning rate."
            )
        with torch.no_grad():
            found = {m: self.margins(self.kept, displace, torch.full((len(self.kept),), m)) for m in MULTIPLIERS}
            forward, back = (
                displace(self.rows[None], torch.tensor(m).reshape(1, 1, 1)) - self.rows[None] for m in (1.0, -1.0)
            )
        return {
            "data": self.data,
            "seed": settings.seed,
            "beta": self.beta,
            "n_triples": len(self.fitted) + len(self.kept),
            "n_held_out": len(self.kept),
            "training": trained.notes(),
            "margins": {f"{m:g}": float(values.mean()) for m, values in found.items()},
            "signs": {f"{m:g}": float((values * m > 0).float().mean()) for m, values in found.items()},
            "oddness": float((forward + back).norm() / forward.norm().clamp(min=1e-30)),
        }
