"""From answers to the files of a run. What is written is a function of the recipe, the pictures and the answers.

conversation_58k.json ...   LLaVA JSON, all samples of a kind
instruct_158k.json          LLaVA JSON, the mixture
records/                    the mixture as records: instruct_train, instruct_heldout (where there are pictures)
rejected.jsonl              every answer that was not taken, with its text and the reason
quarantine.jsonl            every record, and part of one, that could not be asked about
summary.json                counts
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from input_pipeline import records
from input_pipeline.images import ImageError, open_image
from input_pipeline.instruct import books, checks, draws, samples
from input_pipeline.instruct.books import Books, Kept
from input_pipeline.instruct.parse import Pair
from input_pipeline.instruct.plan import Plan, Survey
from input_pipeline.instruct.subjects import Asked, Subject
from input_pipeline.sources import media
from input_pipeline.types import Record

RECORDS, REJECTED, QUARANTINE, SUMMARY = "records", "rejected.jsonl", "quarantine.jsonl", "summary.json"
GONE = "media is gone"
NO_ANSWER = "no answer"
_REFUSED = "refused"


def again(plan: Plan, kept: Books, draw: int) -> Iterator[Asked]:
    """What another answer may be asked for, because the one of this draw is not taken."""
    for asked in plan.asked():
        said = kept.answered(asked.key, draw)
        # A picture that cannot be read is not mended by another answer, nor is a prompt that is too long.
        if said and said[4] and said[2] in ("", _REFUSED) and isinstance(_read(plan, asked, said), str):
            yield asked


def take(plan: Plan, kept: Books, rejected: Path, tries: int = 1) -> Counter[str]:
    """Checks every answer, keeps the first good one of each request as a sample, writes those before it to `rejected`
    and counts their reasons.
    """
    reasons: Counter[str] = Counter()
    looked: tuple[str, str] = "", ""  # (subject, what is wrong with its picture)
    with rejected.open("w", encoding="utf-8") as file:
        for asked in plan.asked():
            seed, subject = plan.recipe.seed, asked.subject
            for draw in range(tries):
                said = kept.answered(asked.key, draw)
                if said is None and draw:
                    break  # nobody asked again
                said = said or ("", "", "nothing was said", "", False)
                found = _read(plan, asked, said)
                if not isinstance(found, str):
                    if looked[0] != subject.id:
                        looked = subject.id, _problem(plan, subject)
                    if not looked[1]:
                        turns = samples.turns(found, asked.key, seed, subject.media)
                        kept.keep(_sample(plan, asked, turns), books.rank(seed, asked.key))
                        break
                    found = looked[1]
                reasons[found] += 1
                row = {"key": asked.key, "kind": asked.kind, "draw": draw, "reason": found, "finish": said[1]}
                row |= {"text": said[0]} | ({"detail": said[3]} if said[3] else {})
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return reasons


def _read(plan: Plan, asked: Asked, said: tuple[str, str, str, str, int]) -> list[Pair] | str:
    """The pairs of an answer, or why it is not taken."""
    text, finish, why, _, is_final = said
    if why:
        return why if is_final else f"{NO_ANSWER}: {why}"
    questions = plan.prompts[asked.kind].questions
    question = samples.question(asked.kind, asked.subject.id, plan.recipe.seed, questions)
    known = checks.Known(asked.told, asked.examples)
    return checks.read(text, finish, plan.recipe.rules(asked.kind), known, question)


def _sample(plan: Plan, asked: Asked, turns: Any) -> Kept:
    subject = asked.subject
    return Kept(
        asked.key, asked.kind, subject.id, subject.image, subject.reference, plan.part(subject), turns
    )


def _problem(plan: Plan, subject: Subject) -> str:
    """What is wrong with a picture's file, '' where nothing is or where pictures are not wanted."""
    if not plan.recipe.images or plan.recipe.posts:
        return ""
    try:
        open_image(media.read(subject.reference))
    except ImageError as error:
        return error.reason
    except OSError:
        return "image file cannot be read"
    return ""


def write(
    plan: Plan, survey: Survey, kept: Books, reasons: Counter[str], out: Path, model: str
) -> dict[str, Any]:
    """Writes all but rejected.jsonl and quarantine.jsonl into the folder `out` and returns the summary."""
    recipe = plan.recipe
    counts = kept.counts()
    chosen = draws.balanced(counts, recipe.ratio)
    files = {}
    if not recipe.posts:
        for kind in recipe.kinds:
            if counts.get(kind):
                files[kind] = f"{kind}_{books.thousands(counts[kind])}.json"
                books.write_llava(out / files[kind], kept.of_kind(kind))
        if chosen:
            files["mixture"] = f"instruct_{books.thousands(sum(chosen.values()))}.json"
            books.write_llava(out / files["mixture"], kept.mixture(chosen))
    splits: dict[str, int] = {}
    if chosen and (recipe.images or recipe.posts):
        splits = _write_records(plan, kept.mixture(chosen), out, model)
    return {
        "pictures": survey.read - survey.rejected.total(),
        "read": survey.read,
        "bad": survey.bad,
        "not_used": dict(survey.rejected.most_common()),
        "left_out_of_them": dict(survey.faults.most_common()),
        "not_asked": dict(survey.not_asked.most_common()),
        "examples": survey.examples,
        "asked": {kind: survey.asked[kind] for kind in recipe.kinds},
        "taken": {kind: counts.get(kind, 0) for kind in recipe.kinds},
        "rejected": dict(reasons.most_common()),
        "mixture": chosen,
        "files": files,
        "splits": splits,
        "model": model,
        "prompts": {kind: prompt.digest for kind, prompt in plan.prompts.items()},
        "recipe": asdict(recipe),
    }


def _write_records(plan: Plan, chosen: Iterator[Kept], out: Path, model: str) -> dict[str, int]:
    source: dict[str, Any] = {}

    def record(sample: Kept) -> Record:
        meta = {"origin": sample.key, "kind": sample.kind, "teacher": model}
        if not plan.recipe.posts:
            image = (media.read(sample.reference),)
            name = media.name_of(sample.reference)
            return Record(sample.id, "instruct", image, sample.turns, {**meta, "images": [name]})
        split, _, index = sample.reference.rpartition(":")
        if split not in source:
            source[split] = records.open_split(plan.recipe.posts, split)
        post = source[split][int(index)]
        return Record(
            sample.id,
            "instruct",
            post.images,
            sample.turns,
            {**meta, "post_id": post.meta["post_id"]},
            post.clips,
        )

    with records.ShardWriter(out, "0") as writer:
        for sample in chosen:
            writer.add(f"instruct_{sample.split}", record(sample))
    shards = {split: [(out / f"{split}.0", *size)] for split, size in writer.sizes.items()}
    lengths = records.finish(shards, out / RECORDS)
    for ((path, _, _),) in shards.values():
        path.unlink()
    return lengths


def text(summary: dict[str, Any], out: Path) -> str:
    """A summary in a few lines."""
    examples = summary["examples"]
    what = "posts" if summary["recipe"]["posts"] else "pictures"
    asked, taken = sum(summary["asked"].values()), sum(summary["taken"].values())
    by_kind = ", ".join(
        f"{kind} {summary['taken'][kind]} of {count}" for kind, count in summary["asked"].items()
    )
    lines = [f"{summary['pictures']} {what}; {taken} of {asked} answers taken: {by_kind}"]
    for title, found in (
        ("not used", summary["not_used"]),
        ("left out of them", summary["left_out_of_them"]),
        ("not asked", summary["not_asked"]),
    ):
        for reason, count in found.items():
            named = f" ({', '.join(examples[reason])})" if examples.get(reason) else ""
            lines.append(f"{title}: {reason}: {count}{named}")
    lines += [f"rejected: {reason}: {count}" for reason, count in summary["rejected"].items()]
    mixed = " + ".join(f"{count} {kind}" for kind, count in summary["mixture"].items())
    over = {kind: summary["taken"][kind] - count for kind, count in summary["mixture"].items()}
    left = ", ".join(f"{count} {kind}" for kind, count in over.items() if count)
    lines.append(
        f"mixture: {sum(summary['mixture'].values())} = {mixed}{f'; left out for the ratio: {left}' if left else ''}"
        if mixed
        else "mixture: none"
    )
    absent = [kind for kind, count in summary["taken"].items() if not count]
    if mixed and absent:
        lines.append(f"warning: no answer was taken of: {', '.join(absent)}; the mixture is without it")
    lines += [f"{name}: {out / file}" for name, file in summary["files"].items()]
    if summary["splits"]:
        told = ", ".join(f"{name} {count}" for name, count in summary["splits"].items())
        lines.append(f"records: {out / RECORDS} ({told})")
    lines.append(f"each answer that was not taken: {out / REJECTED}")
    return "\n".join(lines)
