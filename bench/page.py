"""How long a report takes to open in Chromium, and what it weighs: `python -m bench.page REPORT.html [--rounds 5]`.

Wall time until the load event, and the time that the page's main thread worked; beside an empty page, since a busy machine slows
both. Bounds: 2 s and 15 MB.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from launch.browser import chromium

SECONDS, BYTES = 2.0, 15_000_000


def opened(browser: Any, page: Path) -> dict[str, float]:
    """Seconds to the load event, seconds of main thread work, console messages, requests beyond the file itself."""
    tab = browser.new_page()
    told, asked = [], []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("request", lambda request: asked.append(request.url))
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable")
    tab.goto(page.resolve().as_uri(), timeout=300_000)
    load = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventStart") / 1000
    metrics = {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}
    tab.close()
    outside = [url for url in asked if not url.startswith("data:")][1:]
    return {"load": load, "work": metrics["TaskDuration"], "console": len(told), "outside": len(outside)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.page", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("report", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, chromium() as browser:
        empty = Path(folder) / "empty.html"
        empty.write_text("<!doctype html><title>empty</title><p>empty")
        rounds = [(opened(browser, options.report), opened(browser, empty)) for _ in range(options.rounds)]
    size = options.report.stat().st_size
    table = Table(
        title=f"{options.report}: {size / 1e6:.2f} MB (bound {BYTES / 1e6:.0f}), {options.rounds} rounds",
        title_justify="left",
    )
    for name in ("page", "load event [s]", "main thread [s]", "console", "outside requests"):
        table.add_column(name)
    for place, name in enumerate(("report", "empty page")):
        found = [one[place] for one in rounds]
        median = {key: statistics.median(one[key] for one in found) for key in found[0]}
        table.add_row(
            name,
            f"{median['load']:.2f}",
            f"{median['work']:.2f}",
            f"{median['console']:.0f}",
            f"{median['outside']:.0f}",
        )
    Console().print(table)
    load = statistics.median(one[0]["load"] for one in rounds)
    Console().print(
        f"opens in under {SECONDS:g} s: {'yes' if load < SECONDS else 'NO'}; under 15 MB: {'yes' if size < BYTES else 'NO'}"
    )


if __name__ == "__main__":
    main()
