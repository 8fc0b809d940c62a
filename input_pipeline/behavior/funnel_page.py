"""funnel.html: the funnel as a page, with samples of what each step took out."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jinja2

from input_pipeline.behavior import clean
from input_pipeline.behavior.tally import Tally

# What each step does, for a reader who has not seen the code.
_STEPS = {
    "join": "Comments meet their post; what was read twice, and comments of no post, go.",
    "media": "The post's picture has to be there.",
    "date": "Posts from before or after the days asked for.",
    "excluded": "Communities and categories that are not wanted.",
    "views": "Posts that too few have seen.",
    "duration": "Long videos.",
    "marked": "Posts and comments marked NSFW, written by bots, deleted or removed.",
    "evaluation set": "Posts whose id or picture a benchmark tests on.",
    "unreadable image": "Pictures, or videos where they are shown, that cannot be decoded.",
    "duplicate media": "The same picture posted again; the first post takes over the comments.",
    "comment length": "Comments with too few or too many words.",
    "near-duplicate comments": "Comments that say almost the same as a more popular one.",
    "word list": "Posts and comments with a word of the NSFW list.",
    "language": "Posts and comments in other languages.",
    "few comments": "Posts with too little behaviour left.",
}


def render(summary: Mapping[str, Any], tally: Tally) -> str:
    """Returns the page. All text of users is escaped; what may offend is folded away.

    Args:
        summary: what `prepare` returns.
        tally: holds the samples.
    """
    table = summary["funnel"]
    first = table["steps"][0]
    steps = []
    for row in table["steps"][1:]:
        step = row["step"]
        reasons = []
        for reason, counts in table["reasons"].get(step, {}).items():
            reasons.append({"name": reason, **counts, "samples": tally.samples.get(step, {}).get(reason, [])})
        reasons.sort(key=lambda found: -(found["posts"] + found["comments"]))
        steps.append({**row, "about": _STEPS[step], "reasons": reasons, "id": step.replace(" ", "-")})
    return _template().render(
        first=first,
        steps=steps,
        sources={name: rows for name, rows in table["sources"].items() if len(table["sources"]) > 1},
        splits=summary["splits"],
        arms=summary["arms"],
        quarantine=summary["quarantine"],
        bad=summary["bad"],
        gone=summary["gone"],
        read=summary["read"],
        passed=summary["passed"],
        warnings=summary["warnings"],
        fingerprint=summary["fingerprint"],
        rules=_flat(summary["config"]["clean"]),
    )


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name}.")
        else:
            rows.append(
                (before + name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            )
    return rows


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("input_pipeline", "behavior/templates_html"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["number"] = lambda value: f"{value:,}".replace(",", "\u202f")
    environment.filters["share"] = lambda part, whole: 100 * part / whole if whole else 0.0
    return environment.get_template("funnel.html.jinja")


assert tuple(_STEPS) == clean.STEPS
