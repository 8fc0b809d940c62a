"""What templates are made of: pieces of text that are left out where what they need is not known or not wanted.

`templates` holds the words, `statements` writes them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from string import Formatter

# What receivers do. `title` is title prediction; `objects` and `regions` are orders of saliency.
BEHAVIORS = frozenset({"likes", "comments", "replay", "title", "objects", "regions", "memorability"})


@dataclass(frozen=True)
class Text:
    """Words with `{slots}`. Left out unless every slot is known and all that `when` names is to be told.

    `when` may name behaviours, 'behavior' (any of them), 'scenes' (some scene has words) and 'content'.
    """

    text: str
    when: tuple[str, ...] = ()

    @cached_property
    def slots(self) -> tuple[str, ...]:
        """The names in braces."""
        return tuple(name for _, name, _, _ in Formatter().parse(self.text) if name)


@dataclass(frozen=True)
class First:
    """The first piece that is not left out."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Join:
    """All pieces that are not left out, with `gap` between them."""

    gap: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Each:
    """One `item` for every member of a list, whose own slots it has, with `gap` between them.

    Lists: 'comments' {number} {text}; 'scenes' {number} {caption} {foreground} {background} {tone} {tags} {text};
    'replay' {number} {value}; 'objects' and 'regions' {name}.
    """

    list: str
    item: Piece
    gap: str = "\n"


Piece = Text | First | Join | Each


def say(text: str, *when: str) -> Text:
    """`Text` in short."""
    return Text(text, when)


def first(*pieces: Piece | str) -> First:
    """The first of these that is not left out; a bare string is a `Text`."""
    return First(_as_pieces(pieces))


def join(gap: str, *pieces: Piece | str) -> Join:
    """These, with `gap` between them; a bare string is a `Text`."""
    return Join(gap, _as_pieces(pieces))


def _as_pieces(pieces: tuple[Piece | str, ...]) -> tuple[Piece, ...]:
    return tuple(Text(piece) if isinstance(piece, str) else piece for piece in pieces)


def texts(piece: Piece) -> Iterator[Text]:
    """Every text in a piece, those of list members too."""
    if isinstance(piece, Text):
        yield piece
    elif isinstance(piece, Each):
        yield from texts(piece.item)
    else:
        for inner in piece.pieces:
            yield from texts(inner)


def names(piece: Piece) -> frozenset[str]:
    """The slots and lists that a piece uses; the slots of list members are not among them."""
    if isinstance(piece, Text):
        return frozenset(piece.slots)
    if isinstance(piece, Each):
        return frozenset({piece.list})
    return frozenset().union(*map(names, piece.pieces))


@dataclass(frozen=True)
class Limits:
    """How much of what people wrote is told. Words also have 8 bytes each on average at most (`statements`)."""

    comments: int = 5
    scenes: int = 16
    tags: int = 20
    asr_words: int = 200
    title_words: int = 150  # and of the community. Reddit's 300 characters hold no more: no real title is cut
    content_words: int = 300
    caption_words: int = 100  # and of the writing in a scene
    comment_words: int = 120  # the cleaning funnel takes YouTube's of up to 100


@dataclass(frozen=True)
class SceneTurns:
    """A question and an answer for each scene that has words, in front of the rest; `<image>` is the scene's frame.

    Fields:
        opening: stands in front of the first question.
        question, answer: have the slots of a scene, as members of Each('scenes') have, and {value}, its replay value,
            with which an answer ends.
        closing: in place of the template's question; the answer to it tells the behaviour alone.
    """

    opening: Piece
    question: Piece
    answer: Piece
    closing: Piece


@dataclass(frozen=True)
class Template:
    """The wording of one kind of sample.

    Fields:
        name: what configs and records call it.
        source: which words are the paper's and which are ours.
        question: the human turn; `<image>` stands for the picture or video.
        scene: turns for a film whose scenes are known, which is then shown a scene's frame at a time.
        content, behavior: the answer, with `marker` between them and `gap` between all three. Without a
            behaviour to tell the answer is the content alone.
        behaviors: what it tells unless less is asked for.
        system: the system line that the paper prints with it. It is kept for reference: the prompt template of
            the model (`conversation`) writes the system line, as in the released training script.
        color_gap, color_case: what stands between two colours, and 'mud green' or 'Mud_Green'.
    """

    name: str
    source: str
    question: Piece
    content: Piece
    behavior: Piece
    behaviors: frozenset[str]
    gap: str = "\n"
    marker: str = ""
    system: str = ""
    color_gap: str = ", "
    color_case: str = "mud green"
    limits: Limits = Limits()
    scene: SceneTurns | None = None

    @cached_property
    def uses(self) -> frozenset[str]:
        """Every slot and list in it."""
        found = names(self.question) | names(self.content) | names(self.behavior)
        return (
            found | names(self.scene.opening) | names(self.scene.closing) | {"scenes", "replay"}
            if self.scene
            else found
        )
