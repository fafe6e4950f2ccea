"""A table of neurons to browse: as rows for the terminal, and as one HTML file with a search box and sortable columns.

The file asks for nothing from outside. Tokens may hold anything, markup included: they travel as JSON without "<", ">" and "&" and
are shown as text only.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from policies.errors import BadInput
from steer_agents.finding.concepts import Concept, concept_rows
from steer_agents.finding.neuron_clusters import Neuron
from steer_agents.finding.value_vectors import NeuronTable
from steer_agents.finding.vocabulary import rank
from steer_agents.runs import write_text

MAX_ROWS = 50_000
"""Neurons in a file: about 6 MB."""


def ranked(table: NeuronTable, concept: Concept | None = None) -> list[tuple[float, Neuron]]:
    """(score, neuron) of all neurons, best first: by a concept, or else by the product with their first token."""
    if concept is not None:
        return rank(table, concept_rows(concept, table.vocabulary))
    scored = [
        (score, (layer, index))
        for layer, scores in table.scores.items()
        for index, score in enumerate(scores[:, 0].tolist())
    ]
    return sorted(scored, key=lambda entry: (-entry[0], entry[1]))


def rows(table: NeuronTable, order: Sequence[tuple[float, Neuron]]) -> list[dict[str, Any]]:
    """One dict per neuron: layer, neuron, score, actions (share of action tokens), tokens."""
    shares = {layer: table.action_share(layer).tolist() for layer in table.ids}
    return [
        {
            "layer": layer,
            "neuron": index,
            "score": score,
            "actions": shares[layer][index],
            "tokens": [visible(token) for token in table.tokens(layer, index)],
        }
        for score, (layer, index) in order
    ]


def visible(token: str) -> str:
    """A token on one line: what cannot be printed is escaped, e.g. a line break as \\\\n."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in token)


def write_page(
    path: str | Path, table: NeuronTable, title: str, concept: Concept | None = None, max_rows: int = MAX_ROWS
) -> Path:
    """Write the HTML file, atomically.

    Args:
        path: of the file.
        table: from `neuron_table`.
        title: heading of the page.
        concept: whose score is shown; None shows the product with the first token.
        max_rows: neurons in the file, best first; the page says how many were left out.
    """
    if max_rows < 1:
        raise BadInput(f"write_page: max_rows must be at least 1, got {max_rows}.")
    order = ranked(table, concept)
    kept = order[:max_rows]
    number: dict[int, int] = {}  # row of the head -> place in the page's list of tokens
    entries = []
    for score, (layer, index) in kept:
        said = [number.setdefault(i, len(number)) for i in table.ids[layer][index].tolist()]
        share = sum(i in table.vocabulary.actions for i in table.ids[layer][index].tolist()) / len(said)
        entries.append([layer, index, round(score, 4), round(share, 4), said])
    data = {
        "tokens": [visible(table.vocabulary.tokens[i]) for i in number],
        "actions": [place for i, place in number.items() if i in table.vocabulary.actions],
        "rows": entries,
    }
    layers = sorted(table.ids)
    summary = (
        f"{table.n_neurons} neurons of stack {table.stack}, layers {layers[0]} to {layers[-1]}: the tokens that each one's value vector "
        "writes most. Coloured tokens stand for actions."
    )
    if len(kept) < len(order):
        summary += f" The best {len(kept)} are listed, {len(order) - len(kept)} are left out."
    page = _template().render(
        title=title,
        summary=summary,
        score_name="product" if concept is None else concept.name,
        data=Markup(_inert(data)),
    )
    return write_text(path, page)


def _inert(data: Any) -> str:
    """JSON that ends no script element and opens no comment."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    settings = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    return settings.get_template("neurons.html")
