"""From what is known of a post to the two turns of its sample, in the words of a template.

Everything here is pure: the same template, facts and behaviours give the same text. What users wrote is made
harmless on the way in, and text that is too long is cut, so that a question is always whole.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from input_pipeline.behavior.harmless import harmless
from input_pipeline.behavior.pieces import BEHAVIORS, Each, First, Limits, Piece, Template, Text
from input_pipeline.types import Post, Scene, Span, Turn

REGIONS = (
    "upper-left", "upper-center", "upper-right",
    "middle-left", "middle-center", "middle-right",
    "bottom-left", "bottom-center", "bottom-right",
)  # fmt: skip
CUT = " ..."
# A limit of words does not hold back writing without spaces; bytes do, and follow the number of tokens closely.
_BYTES_A_WORD = 8


@dataclass(frozen=True)
class Facts:
    """What is known of a post, as it was read; empty or None is unknown.

    Fields:
        told_title: the title as a behaviour, for title prediction; `title` is the one that a question may tell.
        like_rate: in [0, 1].
        comments: the most popular first.
        replay: in [0, 1] for each scene, None where it is not known.
        duration: seconds.
        orientation, pace: such as 'landscape' and 'low'.
        objects, regions: the most salient first. The order is known only for two objects or more, and for all
            nine `REGIONS`.
        score: memorability in [0, 1], told on a scale of 00 to 99.
    """

    title: str = ""
    community: str = ""
    asr: str = ""
    content: str = ""
    scenes: tuple[Scene, ...] = ()
    told_title: str = ""
    like_rate: float | None = None
    comments: tuple[str, ...] = ()
    replay: tuple[float | None, ...] = ()
    duration: float | None = None
    orientation: str = ""
    pace: str = ""
    objects: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    score: float | None = None


def facts(post: Post, donor: Post | None = None) -> Facts:
    """Returns what a post tells. `dataclasses.replace` adds what posts do not hold (saliency, memorability).

    Args:
        post: whose content it is.
        donor: whose behaviour it is, for the `shuffled` control; None for the post's own. A donor's replay graph
            is stretched to the length of the post's video.
    """
    behaved = donor or post
    replay = behaved.replay
    if donor is not None:
        replay = _stretched(replay, _length(donor), _length(post))
    return Facts(
        title=post.title,
        community=post.community,
        asr=post.asr,
        content=post.content,
        scenes=post.scenes,
        told_title=behaved.title,
        like_rate=behaved.like_rate,
        comments=tuple(comment.text for comment in behaved.comments),
        replay=tuple(replay_of(scene, replay) for scene in post.scenes),
        duration=post.duration,
    )


def replay_of(scene: Scene, spans: Iterable[Span]) -> float | None:
    """Returns the highest value of a replay graph over a scene's span; None where the two do not meet.

    A scene without times has none. How the paper pools its graphs to scenes is not stated.
    """
    if scene.start is None or scene.end is None:
        return None
    start, end = scene.start, scene.end
    met = (
        span.value
        for span in spans
        if (span.start < end and start < span.end) or span.start <= start < span.end
    )
    return max((value for value in met if _is_share(value)), default=None)


@dataclass(frozen=True)
class Statement:
    """A sample in words, and what of the facts it tells.

    `by_scene`: the scenes' own turns, (number of the scene from 1 on, question, answer); where it has some, question
    and answer may be empty.
    """

    question: str
    answer: str
    behaviors: frozenset[str]
    asr_words: int
    scenes: int
    by_scene: tuple[tuple[int, str, str], ...] = ()

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All of it, in order."""
        pairs = [(question, answer) for _, question, answer in self.by_scene]
        pairs += [(self.question, self.answer)] if self.answer else []
        return tuple(
            Turn(role, text) for pair in pairs for role, text in zip(("human", "gpt"), pair, strict=True)
        )


def write(template: Template, known: Facts, behaviors: Collection[str] | None = None) -> Statement | None:
    """Writes a sample. None where there is nothing to answer.

    Args:
        template: the wording.
        known: the facts; what is missing leaves its pieces out.
        behaviors: what may be told, of `pieces.BEHAVIORS`: of these, the sample tells those that are known and
            that the template has. None at all is the control without behaviour; None is all that the template has.
    """
    page = _Page(template, known, _wanted(template, behaviors) & _known_behaviors(known, template.limits))
    by_scene = page.by_scene()
    question, content = page.asked(by_scene)
    behavior = page.write(template.behavior) if page.behaviors else ""
    marker = template.marker if behavior else ""
    answer = template.gap.join(part for part in (content, marker, behavior) if part)
    if not answer and not by_scene:
        return None
    asr_words = len(page.slots.get("asr", "").removesuffix(CUT).split())
    return Statement(question, answer, page.behaviors, asr_words, len(page.lists["scenes"]), by_scene)


def render(
    template: Template, known: Facts, behaviors: Collection[str] | None = None
) -> tuple[Turn, ...] | None:
    """Writes a sample as its turns; see `write`."""
    written = write(template, known, behaviors)
    return written.turns if written else None


def ask(template: Template, known: Facts, behaviors: Collection[str] | None = None) -> str:
    """Writes the question alone, also for behaviours that are not known yet: what a model is asked to predict."""
    page = _Page(template, known, _wanted(template, behaviors))
    return page.asked(page.by_scene())[0]


def prefix(template: Template, known: Facts) -> str:
    """Returns the start of an answer up to where its behaviour begins; evaluation lets a model go on."""
    page = _Page(template, known, template.behaviors)
    parts = [page.asked(page.by_scene())[1], template.marker]
    return "".join(part + template.gap for part in parts if part)


def percent(like_rate: float) -> str:
    """Returns a share in [0, 1] as the percentage that answers print, such as '62.5'."""
    return f"{100 * like_rate + 0.0:.1f}"  # -0.0 is 0.0


def shorten(text: str, words: int, mark: str = CUT) -> str:
    """Makes a text harmless and cuts it between words.

    Args:
        text: what someone wrote.
        words: how many may stay; their UTF-8 bytes are held to 8 each on average.
        mark: what follows a text that was cut.
    """
    room = words * _BYTES_A_WORD
    part = text[: room + room // 4 + 100]  # enough for what stays, and a book costs no more than a page
    clean = short = harmless(part)
    if len(short) >= 2 * words and len(found := short.split(" ")) > words:
        short = " ".join(found[:words])
    if len(short) * 4 > room and len(data := short.encode()) > room:
        short = data[: room + 1].decode(errors="ignore").rpartition(" ")[0]
        if 2 * len(short.encode()) < room:  # writing without spaces
            short = data[:room].decode(errors="ignore")
    if short == clean and part == text:
        return clean
    short = short.rstrip(" \u200c\u200d")
    return short + mark if short else ""


# --- facts become slots ------------------------------------------------------------------------------------


class _Page:
    """The slots and lists of one sample. Only what the template uses is made harmless and counted."""

    def __init__(self, template: Template, known: Facts, behaviors: frozenset[str]) -> None:
        limits, uses = template.limits, template.uses
        self.template = template
        self.behaviors = behaviors
        self.slots = {
            slot: text
            for slot, raw, words in (
                ("title", known.title, limits.title_words),
                ("told_title", known.told_title, limits.title_words),
                ("community", known.community, limits.title_words),
                ("asr", known.asr, limits.asr_words),
                ("content", known.content, limits.content_words),
                ("orientation", known.orientation, limits.title_words),
                ("pace", known.pace, limits.title_words),
            )
            if slot in uses and (text := shorten(raw, words))
        }
        if known.duration is not None and 0 < known.duration < math.inf:
            self.slots["duration"] = str(max(1, round(known.duration)))
        if known.like_rate is not None and _is_share(known.like_rate):
            self.slots["percent"] = percent(known.like_rate)
        if known.score is not None and _is_share(known.score):
            self.slots["score"] = f"{round(99 * known.score):02d}"
        self.lists = {
            "comments": self._comments(known) if "comments" in behaviors and "comments" in uses else [],
            "replay": self._replay(known) if "replay" in behaviors and "replay" in uses else [],
            "objects": _named(known.objects),
            "regions": _named(known.regions),
        }
        self.lists["scenes"] = self._scenes(known) if "scenes" in uses else []
        if known.objects:
            self.slots["objects"] = ", ".join(sorted(entry["name"] for entry in self.lists["objects"]))
        self.names = behaviors | ({"behavior"} if behaviors else set())
        self.names |= {name for name in ("scenes", "content") if self.lists.get(name) or name in self.slots}

    def write(
        self, piece: Piece, item: dict[str, str] | None = None, names: frozenset[str] | None = None
    ) -> str:
        """Returns the text of a piece, '' where it is left out.

        `item` has the slots of a list's member; `names` are what `when` is held to, if not all that the sample tells.
        """
        if isinstance(piece, Text):
            slots = self.slots if item is None else item
            if (self.names if names is None else names).issuperset(piece.when) and all(
                slot in slots for slot in piece.slots
            ):
                return piece.text.format_map(slots)
            return ""
        if isinstance(piece, Each):
            members = (self.write(piece.item, member) for member in self.lists[piece.list])
            return piece.gap.join(member for member in members if member)
        parts = (part for inner in piece.pieces if (part := self.write(inner, item, names)))
        return next(parts, "") if isinstance(piece, First) else piece.gap.join(parts)

    def asked(self, by_scene: Sequence[Any]) -> tuple[str, str]:
        """(the question, or behind turns of scenes the closing one, and what the answer says of the content)"""
        if by_scene and self.template.scene:
            return self.write(self.template.scene.closing), ""
        return self.write(self.template.question), self.write(self.template.content)

    def by_scene(self) -> tuple[tuple[int, str, str], ...]:
        """The turns of scenes that have something to answer: (number, question, answer)."""
        if self.template.scene is None:
            return ()
        asked = self.template.scene
        found: list[tuple[int, str, str]] = []
        for member in self.lists["scenes"]:
            names = self.names if "value" in member else self.names - {"replay"}
            if answer := self.write(asked.answer, member, names):
                opening = "" if found else self.write(asked.opening)
                parts = (opening, self.write(asked.question, member, names))
                found.append((int(member["number"]), "\n".join(part for part in parts if part), answer))
        return tuple(found)

    def _comments(self, known: Facts) -> list[dict[str, str]]:
        limits = self.template.limits
        texts = (text for raw in known.comments if (text := shorten(raw, limits.comment_words)))
        return [
            {"number": str(number), "text": text}
            for number, text in enumerate(islice(texts, limits.comments), 1)
        ]

    def _scenes(self, known: Facts) -> list[dict[str, str]]:
        """Scenes in words, and with their values where they have turns. The others are left out; numbers stay."""
        found = []
        values = (
            {entry["number"]: entry["value"] for entry in self.lists["replay"]} if self.template.scene else {}
        )
        for number, scene in enumerate(known.scenes[: self.template.limits.scenes], 1):
            words = {
                "caption": self._caption(scene.caption),
                "foreground": self._colors(scene.foreground),
                "background": self._colors(scene.background),
                "tone": shorten(scene.tone, 10, mark=""),
                "tags": _listed(scene.tags[: self.template.limits.tags]),
                "text": self._caption(scene.text),
                "value": values.get(str(number)),
            }
            if words := {slot: text for slot, text in words.items() if text}:
                found.append({"number": str(number), **words})
        return found

    def _caption(self, text: str) -> str:
        short = shorten(text, self.template.limits.caption_words, mark="")
        return short.rstrip(" .")  # the template puts its own stop

    def _colors(self, names: Sequence[str]) -> str:
        plain = (" ".join(name.replace("_", " ").split()).lower() for name in names)
        if self.template.color_case == "Mud_Green":
            plain = (name.title().replace(" ", "_") for name in plain)
        return _listed(plain, self.template.color_gap)

    def _replay(self, known: Facts) -> list[dict[str, str]]:
        return [
            {"number": str(number), "value": f"{value + 0.0:.2f}"}
            for number, value in enumerate(known.replay[: self.template.limits.scenes], 1)
            if value is not None and _is_share(value)
        ]


def _wanted(template: Template, behaviors: Collection[str] | None) -> frozenset[str]:
    if behaviors is None:
        return template.behaviors
    if unknown := set(behaviors) - BEHAVIORS:
        raise ValueError(f"no behaviour {min(unknown)!r}; there are {', '.join(sorted(BEHAVIORS))}")
    return template.behaviors.intersection(behaviors)


def _known_behaviors(known: Facts, limits: Limits) -> frozenset[str]:
    found = {
        "likes": known.like_rate is not None and _is_share(known.like_rate),
        "comments": any(shorten(text, limits.comment_words) for text in known.comments),
        "replay": any(value is not None and _is_share(value) for value in known.replay[: limits.scenes]),
        "title": bool(shorten(known.told_title, limits.title_words)),
        "objects": len({entry["name"] for entry in _named(known.objects)}) > 1,
        "regions": sorted(known.regions) == sorted(REGIONS),
        "memorability": known.score is not None and _is_share(known.score),
    }
    return frozenset(name for name, is_known in found.items() if is_known)


def _named(names: Iterable[str]) -> list[dict[str, str]]:
    return [{"name": name} for raw in names if (name := shorten(raw, 10, mark=""))]


def _listed(names: Iterable[str], gap: str = ", ") -> str:
    return gap.join(entry["name"] for entry in _named(names))


def _is_share(value: float) -> bool:
    return 0 <= value <= 1  # False for NaN too


def _length(post: Post) -> float | None:
    """Seconds of a post's video, from whatever says so."""
    ends = [scene.end for scene in post.scenes if scene.end] + [span.end for span in post.replay]
    return post.duration or max(ends, default=None)


def _stretched(spans: tuple[Span, ...], length: float | None, new_length: float | None) -> tuple[Span, ...]:
    if not length or not new_length:
        return spans
    factor = new_length / length
    return tuple(Span(span.start * factor, span.end * factor, span.value) for span in spans)
