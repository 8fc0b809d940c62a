"""Prompt templates: a conversation becomes *pieces*, text that is supervised or not, control tokens and images.

`TEMPLATES` holds LLaVA's registry (`llava/conversation.py`) in the form that its training code writes
(`llava/train/train.py`), with Hugging Face's and LLaVA-NeXT's beside it. `encoding.py` turns pieces into arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from input_pipeline.errors import UserError, nearest
from input_pipeline.tokenizer import IMAGE_TOKEN
from input_pipeline.types import Turn

Style = Literal["two", "single", "llama_2", "turns", "plain"]

_POLITE = (
    "A chat between a curious {one} and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the {one}'s questions."
)
_SAFE = (
    "You are a helpful, respectful and honest assistant. Always answer as helpfully as possible, while being safe.  "
    "Your answers should not include any harmful, unethical, racist, sexist, toxic, dangerous, or illegal content. "
    "Please ensure that your responses are socially unbiased and positive in nature.\n\n"
    "If a question does not make any sense, or is not factually coherent, explain why instead of answering something "
    "not correct. If you don't know the answer to a question, please don't share false information."
)
_VISUAL = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_MMTAG = (  # the missing space is the reference's
    "A chat between a curious user and an artificial intelligence assistant. The assistant is able to understand the "
    "visual content that the user provides, and assist the user with a variety of tasks using natural language."
    "The visual content will be provided with the following format: <Image>visual content</Image>."
)
_MPT = (
    "A conversation between a user and an LLM-based AI assistant. "
    "The assistant gives helpful and honest answers."
)


@dataclass(frozen=True)
class Template:
    """How turns are written.

    Styles:
        two: `system USER: q ASSISTANT: a</s>USER: ...` (Vicuna v1).
        single: `system ### Human: q ### Assistant: a ### ...` (Vicuna v0).
        llama_2: `[INST] <<SYS>> system <</SYS>> q [/INST] a </s><s>[INST] ...`; `inner_bos` is that second `<s>`.
        turns: every message between `human`, `gpt` or `system_mark` and `end` (MPT, ChatML, Llama 3).
        plain: `<image>caption\\n`, the question dropped (stage 1).
    """

    name: str
    style: Style
    system: str = ""
    human: str = "USER"
    gpt: str = "ASSISTANT"
    system_mark: str = ""
    end: str = ""
    after_end: str = ""
    inner_bos: bool = False
    bos: bool = True  # False: only where the tokenizer puts one by itself
    image_tags: bool = False  # <Image><image></Image>
    image_every_turn: bool = False  # LLaMA-VID: each question has the image, and a context token, of its own
    image_marks: bool = False  # <im_start><image><im_end>, two tokens (`mm_use_im_start_end`)

    @property
    def image_tag(self) -> str:
        """What stands for an image in the text of a turn."""
        return f"<Image>{IMAGE_TOKEN}</Image>" if self.image_tags else IMAGE_TOKEN

    @property
    def image_text(self) -> str:
        """What stands for an image in the rendered prompt."""
        return self.image_tag.replace(IMAGE_TOKEN, IMAGE_TOKEN.join(self.marks))

    @property
    def marks(self) -> tuple[str, str]:
        """The tokens around an image."""
        return ("<im_start>", "<im_end>") if self.image_marks else ("", "")

    @property
    def lead(self) -> str:
        """What stands between the mark of the assistant and its answer, and belongs to the answer."""
        return self.parts.answer[0]

    @property
    def parts(self) -> Parts:
        """The texts around system prompt, questions and answers; for `single` in the form of inference."""
        if self.style == "two":
            return Parts(("", " "), (f"{self.human}: ", f" {self.gpt}:"), (" ", "", ""), eos=True)
        if self.style == "single":
            return Parts(("", "###"), (f"{self.human}: ", f"###{self.gpt}:"), (" ", "###", ""))
        if self.style == "llama_2":
            marks = ("<<SYS>>\n", "\n<</SYS>>\n\n")
            return Parts(marks, ("[INST] ", " [/INST]"), (" ", " ", ""), eos=True, system_inside=True)
        closed = self.end + self.after_end
        if self.style == "turns":
            return Parts(
                (self.system_mark, closed), (self.human, closed + self.gpt), ("", self.end, self.after_end)
            )
        return Parts(("", ""), ("", ""), ("", "\n", ""))


@dataclass(frozen=True)
class Parts:
    """What a template writes: (in front of, behind) the system prompt and a question; around an answer.

    `answer` is what leads it, what ends it (both supervised), and what follows it (not supervised).
    """

    system: tuple[str, str]
    human: tuple[str, str]
    answer: tuple[str, str, str]
    eos: bool = False  # behind what ends an answer
    system_inside: bool = False  # the first question's mark stands in front of the system prompt


def _all() -> Iterator[Template]:
    user, human = _POLITE.format(one="user"), _POLITE.format(one="human")
    vicuna = Template("vicuna_v1", "two", user)
    yield vicuna
    yield replace(vicuna, name="v1")
    yield replace(vicuna, name="llava_v1", system=human)
    yield replace(vicuna, name="v1_mmtag", system=_MMTAG, image_tags=True)
    yield replace(vicuna, name="imgsp_v1", image_every_turn=True)
    # No system prompt: the format of Hugging Face's LLaVA-1.5 chat template, and short enough for tiny models.
    yield replace(vicuna, name="v1_bare", system="")
    old = Template("v0", "single", human, "Human", "Assistant")
    yield old
    yield replace(old, name="llava_v0")
    yield replace(old, name="v0_mmtag", system=_MMTAG, image_tags=True)
    llama = Template("llama_2", "llama_2", _SAFE, inner_bos=True)
    yield llama
    yield replace(llama, name="llava_llama_2", system=_VISUAL)
    yield replace(llama, name="mistral_instruct", system="", inner_bos=False)
    mpt = Template(
        "mpt",
        "turns",
        _MPT,
        human="<|im_start|>user\n",
        gpt="<|im_start|>assistant\n",
        system_mark="<|im_start|>system\n",
        end="<|im_end|>",
        bos=False,
    )
    yield mpt
    for name in ("chatml_direct", "mistral_direct"):
        yield replace(mpt, name=name, system="Answer the questions.")
    for name in ("chatml", "qwen"):  # LLaVA-NeXT's qwen_1_5: a line's end behind every message
        yield replace(mpt, name=name, system="You are a helpful assistant.", after_end="\n")
    header = "<|start_header_id|>{}<|end_header_id|>\n\n"
    yield Template(
        "llama_3",
        "turns",
        _VISUAL,
        human=header.format("user"),
        gpt=header.format("assistant"),
        system_mark=header.format("system"),
        end="<|eot_id|>",
    )
    yield Template("plain", "plain")
    yield Template("plain_guided", "plain")  # LLaMA-VID's stage 1: the question goes to the Q-Former alone
    yield Template("v0_plain", "plain")


TEMPLATES: dict[str, Template] = {template.name: template for template in _all()}
IMAGE_MARKS = "+im_start_end"  # behind a template's name: images between <im_start> and <im_end>


def get_template(name: str) -> Template:
    """Looks a template up by name; a wrong name is a UserError with the nearest valid one."""
    if name.endswith(IMAGE_MARKS):
        return replace(get_template(name.removesuffix(IMAGE_MARKS)), name=name, image_marks=True)
    if name not in TEMPLATES:
        raise UserError(f"no prompt template is named {name!r}.{nearest(name, TEMPLATES)}")
    return TEMPLATES[name]


@dataclass(frozen=True)
class Piece:
    """A stretch of a rendered conversation.

    `text` is what people wrote: control tokens in it are spelt out. `mark` is the template's own text, whose control
    tokens are real ones where the tokenizer has them. `own_bos` is `<s>` where the tokenizer puts one by itself.
    """

    kind: Literal["text", "mark", "image", "bos", "own_bos", "eos"]
    text: str = ""
    supervised: bool = False


def place_images(turns: Sequence[Turn], template: Template, reference_quirks: bool = False) -> list[Turn]:
    """Puts a turn's single image in front of its text, as LLaVA's training does (`preprocess_multimodal`).

    Several images stay where they stand; with `reference_quirks` they collapse into one, as in the reference.
    Templates with `image_tags` get theirs, and those with `image_every_turn` a conversation's single image in every
    question.
    """
    placed = []
    alone = sum(turn.text.count(IMAGE_TOKEN) for turn in turns if turn.role == "human") == 1
    tagged = template.image_tag
    for turn in turns:
        text = turn.text
        if turn.role == "human":
            if template.image_every_turn and alone and IMAGE_TOKEN not in text:
                text = f"{IMAGE_TOKEN}\n{text}"
            text = text.replace(tagged, IMAGE_TOKEN)
            count = text.count(IMAGE_TOKEN)
            if count == 1 or (count and reference_quirks):
                text = f"{IMAGE_TOKEN}\n{text.replace(IMAGE_TOKEN, '').strip()}".strip()
            text = text.replace(IMAGE_TOKEN, tagged)
        placed.append(Turn(turn.role, text))
    return placed


def check_turns(turns: Sequence[Turn]) -> None:
    """Raises ValueError unless the turns alternate, starting with the human."""
    for index, turn in enumerate(turns):
        expected = "human" if index % 2 == 0 else "gpt"
        if turn.role != expected:
            raise ValueError(f"turn {index + 1} is by {turn.role!r}, expected {expected!r}")


def render(turns: Sequence[Turn], template: Template, prompt: bool = False) -> list[Piece]:
    """Renders turns. After a human turn stands the mark of the assistant, so a prompt is a rendering too.

    Args: prompt: the form of inference, which differs from that of training in style `single` alone.
    """
    if template.style == "plain":
        return list(_plain(turns))
    if template.style == "single" and not prompt:
        return list(_single(turns, template))
    return list(_chat(turns, template))


def _said(text: str, template: Template) -> Iterator[Piece]:
    """A human's text, with its images."""
    start, end = template.marks
    for index, chunk in enumerate(text.split(IMAGE_TOKEN)):
        if index:
            yield from (Piece("mark", start),) if start else ()
            yield Piece("image")
            yield from (Piece("mark", end),) if end else ()
        if chunk:
            yield Piece("text", chunk)


def _chat(turns: Sequence[Turn], template: Template) -> Iterator[Piece]:
    parts = template.parts
    yield Piece("bos" if template.bos else "own_bos")
    for index, turn in enumerate(turns):
        if turn.role == "human":
            if index and template.inner_bos:
                yield Piece("bos")
            opening = [Piece("mark", parts.human[0])]
            if not index and template.system:
                # The system prompt may be a caller's: control tokens in it are spelt out.
                front, behind = (Piece("mark", text) for text in parts.system)
                system = [front, Piece("text", template.system), behind]
                opening = opening + system if parts.system_inside else system + opening
            yield from opening
            yield from _said(turn.text, template)
            yield Piece("mark", parts.human[1])
        else:
            # What leads an answer is the answer's: generation starts right after the mark of the assistant.
            yield Piece("text", parts.answer[0] + turn.text, supervised=True)
            yield Piece("mark", parts.answer[1], supervised=True)
            if parts.eos:
                yield Piece("eos", supervised=True)
            yield Piece("mark", parts.answer[2])


def _single(turns: Sequence[Turn], template: Template) -> Iterator[Piece]:
    """As `preprocess_v0` writes it. The answer, its line's end and the ### that stops it are supervised."""
    yield Piece("bos")
    yield Piece("text", template.system + "\n\n")
    answered = False
    for turn in turns:
        if turn.role == "human":
            yield Piece("text", "###", supervised=answered)
            yield Piece("text", f" {template.human}: ")
            yield from _said(turn.text, template)
            yield Piece("text", f"\n### {template.gpt}:")
        else:
            yield Piece("text", f" {turn.text}\n", supervised=True)
        answered = turn.role == "gpt"
    if answered:
        yield Piece("text", "###", supervised=True)
        yield Piece("text", " ")


def _plain(turns: Sequence[Turn]) -> Iterator[Piece]:
    yield Piece("bos")
    for turn in turns:
        if turn.role == "human":
            yield from (Piece("image") for _ in range(turn.text.count(IMAGE_TOKEN)))
        else:
            yield Piece("text", turn.text + "\n", supervised=True)
