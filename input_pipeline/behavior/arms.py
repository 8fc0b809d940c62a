"""The arms of an experiment: which behaviour each tells of the same posts, and in which words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from input_pipeline.behavior import pieces, samples, templates
from input_pipeline.behavior.rules import SOURCES
from input_pipeline.behavior.samples import Spec
from input_pipeline.errors import UserError, nearest
from input_pipeline.types import Post

# What of a post's behaviour an ablation tells; None is all that the config names.
_TOLD: dict[str, frozenset[str] | None] = {
    "behavior": None,
    "ad": frozenset(),
    "shuffled": None,
    "likes": frozenset({"likes"}),
    "comments": frozenset({"comments"}),
    "reactions": frozenset({"likes", "comments"}),
    "replay": frozenset({"replay"}),
    "titles": frozenset({"title"}),
}
ARMS = tuple(_TOLD)
BEHAVIORS = ("likes", "comments", "replay")
_TITLES = "title_v1"  # titles are in every other template's question, so this arm has one of its own


@dataclass(frozen=True)
class Arm:
    """One arm. It pickles small: templates go by name."""

    name: str
    templates: tuple[str, ...]  # by source, as SOURCES
    behaviors: frozenset[str]
    asr_words: int | None = None  # how many words of a transcript are told; None is the template's own number
    film_templates: tuple[str, ...] = ()  # the same, of posts whose film is shown; () where none is

    def spec(self, post: Post, donor: Post | None) -> Spec | None:
        """The post's sample in this arm, or None where it has none.

        Args:
            post: clean.
            donor: the post whose behaviour the shuffled control tells; None where there is none.
        """
        source = post.source if post.source in SOURCES else "other"
        names = self.film_templates if post.film and self.film_templates else self.templates
        template = templates.get(names[SOURCES.index(source)], self.asr_words)
        if self.name == "shuffled":
            return samples.shuffled(post, donor, template, self.behaviors) if donor else None
        return samples.behavior(post, template, self.behaviors, self.name)


def make(
    names: tuple[str, ...],
    wording: str | Mapping[str, str],
    behaviors: tuple[str, ...],
    asr_words: int | None = None,
    film_wording: Mapping[str, str] | None = None,
) -> tuple[Arm, ...]:
    """Builds arms from the config.

    Args:
        names: of ARMS.
        wording: a template's name, or one for each source.
        behaviors: what the arms tell that tell all.
        asr_words: of a transcript, see Arm.
        film_wording: a template's name for each source, of posts whose film is shown; None where none is.
    """
    by_source = dict.fromkeys(SOURCES, wording) if isinstance(wording, str) else dict(wording)
    of_films = dict(film_wording or {})
    for setting, names_by_source in (("template", by_source), ("video_templates", of_films)):
        for source in names_by_source:
            if source not in SOURCES:
                raise UserError(
                    f"prepare config: {setting}.{source}: no such source.{nearest(source, SOURCES)}"
                )
        missing = [source for source in SOURCES if not names_by_source.get(source)]
        if missing and (names_by_source is by_source or film_wording is not None):
            raise UserError(f"prepare config: {setting} names none for {', '.join(missing)}")
        for name in names_by_source.values():
            templates.get(name, asr_words)
    for behavior in behaviors:
        if behavior not in BEHAVIORS:
            raise UserError(f"prepare config: no behavior {behavior!r}.{nearest(behavior, BEHAVIORS)}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"prepare config: arms={names!r}: at least one, and each once")
    if unknown := set(behaviors) - set().union(
        *(templates.get(n).behaviors for n in (*by_source.values(), *of_films.values()))
    ):
        raise UserError(
            f"prepare config: behaviors names {', '.join(sorted(unknown))}, which no template in use tells; "
            "name another template, or leave it out"
        )
    arms = []
    for name in names:
        if name not in _TOLD:
            raise UserError(f"prepare config: no arm {name!r}.{nearest(name, ARMS)}")
        told = _TOLD[name]
        chosen = tuple(_TITLES if name == "titles" else by_source[source] for source in SOURCES)
        told = frozenset(behaviors) if told is None else told
        of_film = tuple(_TITLES if name == "titles" else of_films[source] for source in SOURCES if of_films)
        for position, source in enumerate(SOURCES):
            # What the words of pictures lack, those of films may have: replay graphs.
            either = [words[position] for words in (chosen, of_film) if words]
            if of_film and any(told & templates.get(words).behaviors for words in either):
                continue
            for words in either:
                _check(name, told, source, words)
        arms.append(Arm(name, chosen, told, asr_words, of_film))
    return tuple(arms)


def _check(arm: str, told: frozenset[str], source: str, words: str) -> None:
    """Raises UserError where an arm could tell nothing of its own in the words of a template."""
    template = templates.get(words)
    if told and not told & template.behaviors:
        raise UserError(
            f"prepare config: template {words!r} (of {source}) tells {', '.join(sorted(template.behaviors))}, "
            f"and arm {arm!r} {', '.join(sorted(told))}: choose another template or arm"
        )
    if not told and not any(text.text for text in pieces.texts(template.content)):
        raise UserError(
            f"prepare config: template {words!r} (of {source}) says nothing of the content, so there can be no "
            f"arm {arm!r}: choose another template or leave the arm out"
        )


def to_json(arms: tuple[Arm, ...]) -> list[dict[str, Any]]:
    """What the arms are, for summary.json."""
    return [
        {
            "name": arm.name,
            "templates": dict(zip(SOURCES, arm.templates, strict=True)),
            **(
                {"video_templates": dict(zip(SOURCES, arm.film_templates, strict=True))}
                if arm.film_templates
                else {}
            ),
            "tells": sorted(arm.behaviors),
        }
        for arm in arms
    ]
