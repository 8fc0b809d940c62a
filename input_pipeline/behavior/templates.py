"""Instruction templates: every word that a behaviour sample adds to its post is in this file.

`image_behavior_v1` follows Listing 1 of the paper, cut down to one image and few tokens: a content
statement and then the behaviour. The `ad` control is the same sample without the behaviour questions and
the behaviour. A change of wording is a new template with a new name, so that a data set always says how it
was written.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from input_pipeline.errors import UserError, nearest
from input_pipeline.types import Turn


@dataclass(frozen=True)
class Template:
    """The wording of one kind of sample. `{...}` are its slots."""

    name: str
    image: str
    titled: str
    community: str  # follows `titled`; left out where the post has no community
    ask_content: str
    ask_likes: str
    ask_comments: str
    ask_both: str
    marker: str  # between content and behaviour; '' for none
    likes: str
    likes_and_comments: str
    comments: str
    comment: str
    max_comments: int


_IMAGE_BEHAVIOR_V1 = Template(
    name="image_behavior_v1",
    image="<image>\n",
    titled='The image is titled "{title}"',
    community=", posted in {community}",
    ask_content="Describe it.",
    ask_likes="What percentage of viewers would like it?",
    ask_comments="What would be the top comments?",
    ask_both="What percentage of viewers would like it, and what would be the top comments?",
    marker=">>> BEHAVIOR <<<\n",
    likes="It will be liked by {percent}% of viewers.",
    likes_and_comments="It will be liked by {percent}% of viewers, and the popular comments could be:\n",
    comments="The popular comments could be:\n",
    comment='{number}. "{text}"\n',
    max_comments=5,
)

TEMPLATES: dict[str, Template] = {
    template.name: template
    for template in (
        _IMAGE_BEHAVIOR_V1,
        # The switch of the reference's section 8: whether the listing's marker is trained on is not known.
        Template(**{**_IMAGE_BEHAVIOR_V1.__dict__, "name": "image_behavior_v1_unmarked", "marker": ""}),
    )
}


def get(name: str) -> Template:
    """Returns a template by name; an unknown name is a UserError that suggests the nearest."""
    try:
        return TEMPLATES[name]
    except KeyError:
        raise UserError(f"no template {name!r}.{nearest(name, TEMPLATES)}") from None


def question(
    template: Template, title: str, community: str = "", likes: bool = True, comments: bool = True
) -> str:
    """Returns the human turn: '<image>' on a line of its own, the post, and what is asked of it.

    Args:
        template: the wording.
        title: the post's title, as it was written; it is made harmless here.
        community: subreddit or channel; '' leaves it out.
        likes, comments: whether each behaviour is asked for. Neither is the `ad` control.
    """
    parts = []
    if title := harmless(title):
        place = harmless(community)
        where = template.community.format(community=place) if place else ""
        parts.append(template.titled.format(title=title) + where + ".")
    parts.append(template.ask_content)
    if likes and comments:
        parts.append(template.ask_both)
    elif likes:
        parts.append(template.ask_likes)
    elif comments:
        parts.append(template.ask_comments)
    return template.image + " ".join(parts)


def answer(
    template: Template, content: str, like_rate: float | None = None, comments: Sequence[str] = ()
) -> str:
    """Returns the assistant's turn; what is missing leaves its block out.

    Args:
        template: the wording.
        content: the content statement, '' for none.
        like_rate: in [0, 1]; printed as a percentage with one decimal.
        comments: texts, the most popular first; the first `max_comments` are used.
    """
    chosen = [text for text in map(harmless, comments) if text][: template.max_comments]
    text = behavior_prefix(template, content) if chosen or like_rate is not None else content
    if like_rate is not None:
        wording = template.likes_and_comments if chosen else template.likes
        text += wording.format(percent=percent(like_rate))
    elif chosen:
        text += template.comments
    text += "".join(template.comment.format(number=i, text=t) for i, t in enumerate(chosen, 1))
    return text.rstrip("\n")


def behavior_prefix(template: Template, content: str) -> str:
    """Returns the start of an answer up to where its behaviour begins; evaluation lets a model go on."""
    return (content + "\n" if content else "") + template.marker


def percent(like_rate: float) -> str:
    """Returns a share in [0, 1] as the percentage that answers print, such as '62.5'."""
    return f"{100 * like_rate:.1f}"


def turns(
    template: Template,
    title: str,
    community: str,
    content: str,
    like_rate: float | None = None,
    comments: Sequence[str] = (),
) -> tuple[Turn, Turn]:
    """Returns the two turns of a sample; without like_rate and comments it is the `ad` control."""
    asked = question(template, title, community, like_rate is not None, bool(comments))
    return Turn("human", asked), Turn("gpt", answer(template, content, like_rate, comments))


_RUNS = re.compile(r"<{2,}|>{2,}|#{2,}|\|{2,}")
_TAG = re.compile(r"<(\s*/?\s*\|?\s*[^\W\d_][^<>\n]{0,40}?\s*)>")
_INSTRUCTION = re.compile(r"\[(/?INST)\]", re.IGNORECASE)
_SPEAKER = re.compile(r"\b(USER|ASSISTANT|SYSTEM|HUMAN|GPT)\s*:")
_QUOTES = str.maketrans({'"': "'", "\u201c": "'", "\u201d": "'", "\u201e": "'", "\uff02": "'"})


def harmless(text: str) -> str:
    """Returns a user's text on one line, such that it cannot be taken for a part of the template.

    Control, format and surrogate characters go (joiners inside emoji stay); `<image>`, `<s>`, `</s>`,
    `<|x|>` and every other tag get round brackets; `>>>` and `###` shrink to one sign; double quotes become
    single; speaker names such as `USER:` lose their colon. Doing it twice changes nothing.
    """
    kept = []
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp", "Zs"):
            kept.append(" ")
        elif category not in ("Cf", "Cs", "Co", "Cn") or character == "\u200d":
            kept.append(character)
    text = "".join(kept).translate(_QUOTES)
    while True:  # what one replacement joins, the next may have to part
        changed = _RUNS.sub(lambda m: m.group()[0], text)
        changed = _TAG.sub(r"(\1)", changed)
        changed = _INSTRUCTION.sub(r"(\1)", changed)
        changed = _SPEAKER.sub(r"\1 -", changed)
        changed = " ".join(changed.split())
        if changed == text:
            return text
        text = changed
