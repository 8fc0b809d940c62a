"""What a teacher is told to do: a system message and examples for each kind, read from folders of text files.

The layout is that of LLaVA's release: `FOLDER/KIND/system_message.txt` and, for each example, `NNN_caps.txt` (what the
user says) and `NNN_conv.txt` (what the assistant answers), so that its folders work as they are. A kind that the
teacher writes no questions for may have `questions.txt`, one on a line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from input_pipeline.errors import UserError, nearest

OURS = Path(__file__).with_name("prompts_text")
FOLDERS = {
    "conversation": "conversation",
    "detail": "detail_description",
    "complex": "complex_reasoning",
    "audience_conversation": "audience_conversation",
    "audience_reasons": "audience_reasons",
}
SYSTEM, ASKED, TOLD, QUESTIONS = "system_message.txt", "_caps.txt", "_conv.txt", "questions.txt"


@dataclass(frozen=True)
class Prompt:
    """A system message; examples as (what the user says, what the assistant answers); questions, where the teacher
    writes none.
    """

    system: str
    examples: tuple[tuple[str, str], ...]
    questions: tuple[str, ...] = ()

    def messages(self, query: str) -> tuple[tuple[str, str], ...]:
        """(role, text) of each message, the query last (LLaVA, table 13)."""
        found = [("system", self.system)]
        for asked, told in self.examples:
            found += [("user", asked), ("assistant", told)]
        return (*found, ("user", query))

    @property
    def digest(self) -> str:
        """A hash, hex, of all of it."""
        return hashlib.sha256(repr((self.system, self.examples, self.questions)).encode()).hexdigest()

    @property
    def answers(self) -> frozenset[str]:
        """The examples' answers, blanks made one."""
        return frozenset(" ".join(told.split()) for _, told in self.examples)


def load(folder: str | Path | None, kinds: Collection[str]) -> dict[str, Prompt]:
    """Reads the prompts of these kinds; None is our own folder. UserError names what is missing."""
    root = Path(folder) if folder else OURS
    if not root.is_dir():
        raise UserError(f"--prompts {root}: no such folder")
    return {kind: _load(root / FOLDERS[kind], kind) for kind in kinds}


def _load(folder: Path, kind: str) -> Prompt:
    if not folder.is_dir():
        there = [path.name for path in folder.parent.iterdir() if path.is_dir()]
        hint = nearest(folder.name, there) if there else " It has no folders."
        raise UserError(
            f"--prompts {folder.parent}: no folder {folder.name!r} for the kind {kind!r}.{hint} "
            "Make it, or leave the kind out with --kinds."
        )
    system = _text(folder / SYSTEM)
    if not system:
        raise UserError(f"{folder / SYSTEM}: is empty; write there what the teacher is to do")
    parts = [
        {path.name.removesuffix(suffix) for path in folder.glob(f"*{suffix}")} for suffix in (ASKED, TOLD)
    ]
    if alone := sorted(parts[0] ^ parts[1]):
        missing = TOLD if alone[0] in parts[0] else ASKED
        raise UserError(f"{folder / (alone[0] + missing)}: is missing; an example is a pair of files")
    examples = tuple(
        (_text(folder / f"{name}{ASKED}"), _text(folder / f"{name}{TOLD}")) for name in sorted(parts[0])
    )
    for name, example in zip(sorted(parts[0]), examples, strict=True):
        if not all(example):
            raise UserError(f"{folder / name}{TOLD if example[0] else ASKED}: is empty")
    return Prompt(system, examples, lines_of(folder / QUESTIONS) if (folder / QUESTIONS).exists() else ())


def lines_of(path: Path) -> tuple[str, ...]:
    """The lines of a file that are not empty. UserError where it has none."""
    found = tuple(line for line in map(str.strip, _text(path).splitlines()) if line)
    if not found:
        raise UserError(f"{path}: is empty; write there what is asked, one on a line")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig").strip()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); it has to be a file of text") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8; save it as such") from None
