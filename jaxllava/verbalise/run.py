"""`verbalise`: scenes of videos and pictures in words, cached by the content of the media, resumable, over hosts."""

from __future__ import annotations

import contextlib
import fcntl
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError
from input_pipeline.partial import partial_of
from jaxllava import hosts as other_hosts
from jaxllava.api import Model
from jaxllava.evaluate import answers as answer_files
from jaxllava.evaluate.answers import Answers, Row
from jaxllava.verbalise import keyframes, words
from jaxllava.verbalise import media as media_files
from jaxllava.verbalise.ask import Asking, ask, check, host_of
from jaxllava.verbalise.media import Medium

RESULT, QUARANTINE, REPORT = "scenes.jsonl", "quarantine.jsonl", "report.json"
_HASHERS = 4  # threads
_HASHES = {"hashes": "sha256, by size, time of change and path"}
_TOGETHER = 256  # hashes that are written at once
_NAMED = 5  # media that a report names of each kind of problem
_BARRIER = 24 * 60.0  # minutes that hosts wait for one another

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Place:
    """`file` has the result, `folder` the report, the quarantine and what was answered so far."""

    file: Path
    folder: Path

    @staticmethod
    def of(out: Path) -> Place:
        """NAME.jsonl has its folder NAME.work beside it; anything else is a folder with all in it."""
        if out.suffix == ".jsonl":
            return Place(out, out.with_suffix(".work"))
        return Place(out / RESULT, out)


def verbalise(
    model: Model,
    media: Sequence[Medium],
    out: str | Path,
    *,
    checkpoint: str,
    how: Asking | None = None,
    max_bad_fraction: float = 0.05,
    host: int = 0,
    hosts: int = 1,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Puts the scenes of media into words and writes a line of JSON for each medium to `Place.of(out).file`:

        {"media": name, "sha256": hex, "scenes": [{"start", "end", "keyframe", "caption", "tags", "foreground",
        "background", "tone"}], "asr": what captions beside it say, if there are any, "model": {...}, "prompts": {...}}

    What a medium's scenes are depends on its bytes, the model, the prompts and `how` alone, and is asked once: it stays
    in the folder under the hash of these. A run that ended at any moment goes on with what is missing.

    Args:
        model: of `jaxllava.load`.
        media: of `media.find`.
        checkpoint: the identity of the model's weights, of `identity.of_folder`.
        max_bad_fraction: the share of bad media above which no result is written.
        host, hosts: every host has to call it with the same media; each asks about its share, the first writes.
        progress: called as progress(done, total, note).

    Returns the report that the first host also writes: counts, what is bad and has faults, and "problem", which is ''
    or why no result was written. Of other hosts it has the counts of their share.

    Raises UserError where another run is writing to `out`, where the hosts are about to do different things, and for
    prompts that are too long.
    """
    how = how or Asking()
    started = time.monotonic()
    check(model, how)
    place = Place.of(Path(out))
    place.folder.mkdir(parents=True, exist_ok=True)
    of_model = {"checkpoint": checkpoint, "type of weights": model.dtype, "template": model.template}
    asked = _asked(of_model, how)
    with _locked(place.folder / f"lock-{host:04d}", out):
        _agree(hosts, {"media": answer_files.digest([medium.id for medium in media]), **asked})
        read = _hashes(media, place.folder / "hashes", host, hosts, progress)
        hashes = {
            medium.id: read.rows[medium.id]["answer"] for medium in media if read.is_answered(medium.id)
        }
        first: dict[str, Medium] = {}  # one of each content
        for medium in media:
            if medium.id in hashes:
                first.setdefault(hashes[medium.id], medium)
        kept = place.folder / answer_files.digest(asked)
        found = Answers(kept, asked, host)
        _barrier(hosts, "what is answered was read")  # one host's first answers would change what others find
        waiting = [id for id in sorted(first) if not found.is_answered(id)]
        mine = [(id, first[id]) for id in waiting if host_of(id, hosts) == host]
        bad_here = _Bad(media, hashes, max_bad_fraction)

        def add(row: Row) -> None:
            found.add([row])
            bad_here.look(row)

        tell = (lambda done, total: progress(done, total, "asking")) if progress else None
        with contextlib.suppress(_TooManyBad):
            ask(model, mine, how, add, tell)
        _barrier(hosts, "all was asked")
        seconds = round(time.monotonic() - started, 1)
        if host:
            return {"media": len(media), "asked": len(mine), "problem": "", "seconds": seconds}
        final = Answers(kept, found.identity) if hosts > 1 else found
        facts = {"asked": sum(map(final.is_answered, waiting)), "seconds": seconds}
        return _written(media, read, final, of_model, how, max_bad_fraction, place, facts)


def _asked(of_model: Mapping[str, str], how: Asking) -> dict[str, str]:
    """What decides the answers beside the media, by name."""
    return {
        **of_model,
        "caption prompt": how.caption_prompt,
        "tags prompt": how.tags_prompt,
        "tokens of an answer": str(how.new_tokens),
        "scenes": f"{keyframes.HOW}, at most {how.most_scenes}",
    }


@contextlib.contextmanager
def _locked(path: Path, out: str | Path) -> Iterator[None]:
    """Two runs would ask the same and write over one another. The lock ends with the process, however that does."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{out}: another run is writing it; wait for its end") from None
        yield


def _agree(hosts: int, facts: Mapping[str, str]) -> None:
    if hosts > 1:
        other_hosts.agree(facts, _BARRIER)


def _barrier(hosts: int, what: str) -> None:
    if hosts > 1:
        other_hosts.barrier(what, _BARRIER)


def _hashes(
    media: Sequence[Medium], folder: Path, host: int, hosts: int, progress: Progress | None
) -> Answers:
    """The hash of each medium's bytes by its id, or why it cannot be read. Each file is read once in its life."""
    log = Answers(folder, _HASHES, host)
    _barrier(hosts, "known hashes were read")
    new = [medium for medium in media if not log.is_answered(medium.id)][host::hosts]
    with ThreadPoolExecutor(_HASHERS) as pool:
        for i in range(0, len(new), _TOGETHER):
            log.add(pool.map(_hashed, new[i : i + _TOGETHER]))
            if progress:
                progress(min(i + _TOGETHER, len(new)), len(new), "reading media")
    if hosts > 1:
        _barrier(hosts, "media were read")
        log = Answers(folder, log.identity, host)
        _barrier(hosts, "new hashes were read")
    return log


def _hashed(medium: Medium) -> Row:
    try:
        value = media_files.sha256(medium)
        if medium.stamp and media_files.stamp(medium.path) == medium.stamp:
            return {"id": medium.id, "answer": value}
        return {"id": medium.id, "error": "changed while it was read"}
    except OSError as error:
        return {"id": medium.id, "error": error.strerror or str(error)}


class _TooManyBad(Exception):
    """No result can come of this run any more."""


class _Bad:
    """Counts the bad media of this host as they come, so that a wrong folder does not cost a day."""

    def __init__(self, media: Sequence[Medium], hashes: Mapping[str, str], limit: float) -> None:
        self._names = Counter(hashes[medium.id] for medium in media if medium.id in hashes)
        self._count = sum(medium.id not in hashes for medium in media)
        self._most = limit * len(media)

    def look(self, row: Row) -> None:
        if "error" in row:
            self._count += self._names[row["id"]]
            if self._count > self._most:
                raise _TooManyBad


def _written(
    media: Sequence[Medium],
    read: Answers,
    found: Answers,
    of_model: Mapping[str, str],
    how: Asking,
    max_bad_fraction: float,
    place: Place,
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Joins all hosts' answers to the result, and writes what is to be told of the run."""
    lines: list[dict[str, Any]] = []
    bad: list[dict[str, str]] = []
    faults: dict[str, list[str]] = {}
    open_yet = 0
    for medium in media:
        hashed = read.rows.get(medium.id, {})
        id = str(hashed.get("answer", ""))
        row: Row = found.rows.get(id, {}) if id else {"error": f"media: {hashed.get('error', 'not read')}"}
        if "answer" not in row:
            if "error" in row:
                bad.append({"media": medium.name, "sha256": id, "reason": row["error"]})
            open_yet += "error" not in row
            continue
        for note in row.get("notes", ()):
            faults.setdefault(note, []).append(medium.name)
        line: dict[str, Any] = {
            "media": medium.name,
            "sha256": id,
            "scenes": [_scene(told) for told in row["answer"]],
        }
        if said := media_files.speech(
            medium, lambda what, name=medium.name: faults.setdefault(what, []).append(name)
        ):
            line["asr"] = said
        prompts = {"caption": how.caption_prompt, "tags": how.tags_prompt}
        lines.append(line | {"model": dict(of_model), "prompts": prompts})
    reasons: dict[str, list[str]] = {}
    for one in bad:
        reasons.setdefault(one["reason"], []).append(one["media"])
    named = lambda groups: {
        what: {"count": len(names), "first": names[:_NAMED]} for what, names in sorted(groups.items())
    }
    problem = ""
    if len(bad) > max_bad_fraction * len(media):
        problem = (
            f"{len(bad)} of {len(media)} media are bad, more than --max-bad-fraction {max_bad_fraction:g} allows; "
            f"{place.folder / QUARANTINE} names them; {place.file} was not written"
        )
    scenes = [scene for line in lines for scene in line["scenes"]]
    report: dict[str, Any] = {
        "media": len(media),
        "written": len(lines),
        "bad": len(bad),
        "not asked": open_yet,
        **facts,
        "scenes": len(scenes),
        "without a caption": sum(not scene["caption"] for scene in scenes),
        "without tags": sum(not scene["tags"] for scene in scenes),
        "reasons": named(reasons),
        "faults": named(faults),
        "problem": problem,
    }
    _write(place.folder / QUARANTINE, "".join(json.dumps(row) + "\n" for row in bad))
    if not problem:
        _write(place.file, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    _write(place.folder / REPORT, json.dumps(report, indent=1) + "\n")
    return report


def _scene(row: Mapping[str, Any]) -> dict[str, Any]:
    """A scene as it is told: what the model wrote is kept in the log, and read anew each time."""
    return {
        "start": row["start"],
        "end": row["end"],
        "keyframe": row["keyframe"],
        "caption": words.parse_caption(row["caption"]),
        "tags": list(words.parse_tags(row["tags"], row["tags cut"])),
        "foreground": row["foreground"],
        "background": row["background"],
        "tone": row["tone"],
    }


def _write(path: Path, text: str) -> None:
    unfinished = partial_of(path)
    unfinished.write_text(text, "utf-8")
    unfinished.rename(path)
