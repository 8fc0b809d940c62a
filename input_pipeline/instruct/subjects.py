"""What a teacher is asked about: pictures, or posts with their audience; and the questions that are drawn for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from input_pipeline.instruct import draws
from input_pipeline.instruct.prompts import Prompt
from input_pipeline.instruct.symbolic import Symbolic

PICTURE_KINDS: tuple[str, ...] = ("conversation", "detail", "complex")
POST_KINDS: tuple[str, ...] = ("audience_conversation", "audience_reasons")
RATIOS: dict[str, float] = {**draws.PAPER, "audience_conversation": 1, "audience_reasons": 1}


@dataclass(frozen=True)
class Subject:
    """One picture or post.

    Fields:
        id: names it among all of a run; requests are called 'id/kind'.
        told: what the teacher is told for each kind; a kind that cannot be asked is missing.
        split_key: what decides whether it is held out (a file's name without suffix), or the split itself ('train',
            'heldout') where that is known.
        image: the file's name below the folder of pictures, '' where the media come from elsewhere.
        reference: where the media are: as `sources.media.read` takes it, or 'split:index' of a record.
        cannot: {kind: why it is not asked}.
        media: how many `<image>` marks it has.
    """

    id: str
    told: Mapping[str, str]
    split_key: str
    image: str = ""
    reference: str = ""
    origin: str = ""
    cannot: Mapping[str, str] = field(default_factory=dict)
    media: int = 1


@dataclass(frozen=True)
class Asked:
    """One request: (role, text) of its messages, and what its answer is held against."""

    key: str
    kind: str
    subject: Subject
    messages: tuple[tuple[str, str], ...]
    examples: frozenset[str]

    @property
    def told(self) -> str:
        """What the teacher is told of the subject."""
        return self.subject.told[self.kind]


def of_picture(one: Symbolic, reference: str = "") -> Subject | str:
    """The subject of a picture in words; or why there is none.

    A conversation is asked of captions alone, the others of captions and boxes (LLaVA, 3.3 of its release), or of what
    there is of them.
    """
    if not one.captions and not one.boxes:
        return "neither captions nor boxes"
    told = {kind: one.text(boxes=kind != "conversation") for kind in PICTURE_KINDS}
    cannot = {}
    if not told["conversation"]:
        del told["conversation"]
        cannot["conversation"] = "no captions for a conversation"
    stem = PurePosixPath(one.image).stem
    return Subject(one.id, told, stem, one.image, reference, one.origin, cannot)


def asks(
    subject: Subject, prompts: Mapping[str, Prompt], ratio: Mapping[str, float], seed: int
) -> Iterator[Asked | tuple[str, str]]:
    """Yields the requests of a subject, a function of its id, the ratio and the seed; for a kind that was drawn and
    cannot be asked (kind, reason).
    """
    for kind in draws.kinds(subject.id, ratio, seed):
        if kind not in subject.told:
            yield kind, subject.cannot.get(kind, "cannot be asked")
            continue
        prompt = prompts[kind]
        yield Asked(
            f"{subject.id}/{kind}", kind, subject, prompt.messages(subject.told[kind]), prompt.answers
        )
