"""lmms-eval's model class over `jaxllava.load`: generation, likelihoods of choices, conversations of several rounds."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lmms_eval.api.model import lmms  # pyright: ignore[reportMissingImports]
from lmms_eval.utils import simple_parse_args_string  # pyright: ignore[reportMissingImports]
from loguru import logger  # pyright: ignore[reportMissingImports]
from tqdm import tqdm

from input_pipeline.errors import UserError, nearest
from jaxllava.api import load
from jaxllava.lmms.requests import Ask, Writing, cut, prompt_of, read_writing
from jaxllava.prompts import Row

# Requests are read this many batches at a time: enough to batch like sizes, and little in memory.
_BATCHES_READ = 8
_NAMED = 5  # failed requests that a message names


class JaxLlava(lmms):
    """A jaxllava checkpoint (or any folder that `jaxllava.load` opens) as an lmms-eval model.

    A request that cannot be read (a missing picture, nothing asked, a prompt longer than the model) is answered with
    "", which lmms-eval does not cache, logged as an error with its task and document, and counted in `failed`; with
    `strict`, and for likelihoods, where no answer is neutral, the run stops before anything is answered.

    Args:
      pretrained: the folder.
      batch_size: prompts at a time; lmms-eval's own --batch_size where this is not among the model's arguments.
      dtype, template, base, vision_tower: as in `jaxllava.load`.
      max_images: of more pictures this many are taken, evenly spread. None: all.
      frames: taken from a video.
      reduction: what a likelihood is. "sum": minus the log-probability of the choice. "mean": its loss per token with
        the end of the answer, which lmms-eval's own LLaVA returns.
      keep_blank_lines: lmms-eval ends answers at a blank line where a task names no end of its own; True writes on, as
        most of its own models do.
      seed: of sampled answers.
      strict: see above.
      device, max_batch_size: lmms-eval gives them to every model; JAX chooses the device.
    """

    is_simple = True

    def __init__(
        self,
        pretrained: str = "",
        batch_size: int | str = 16,
        dtype: str | None = None,
        template: str | None = None,
        base: str | None = None,
        vision_tower: str | None = None,
        max_images: int | None = None,
        frames: int = 8,
        reduction: str = "sum",
        keep_blank_lines: bool = True,
        seed: int = 0,
        strict: bool = False,
        device: str | None = None,
        max_batch_size: int | None = None,
        **unknown: Any,
    ) -> None:
        super().__init__()
        for name in unknown:
            raise UserError(f"--model_args: the model jaxllava has no {name!r}.{nearest(name, _ARGUMENTS)}")
        if not pretrained:
            raise UserError("--model_args: give the model's folder, pretrained=FOLDER.")
        if not str(batch_size).isdecimal() or int(batch_size) < 1:
            raise UserError(f"batch_size is {batch_size!r}; give a number of prompts, 1 or more.")
        if reduction not in ("sum", "mean"):
            raise UserError(f"--model_args: reduction is {reduction!r}.{nearest(reduction, ('sum', 'mean'))}")
        for name, value in (("frames", frames), ("max_images", max_images)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UserError(f"--model_args: {name} is {value!r}; it must be at least 1.")
        _keep_likelihoods()
        self.batch_size = int(batch_size)
        self.failed: dict[str, str] = {}  # reasons by request
        self._answering = load(
            str(pretrained),
            template=template,
            vision_tower=vision_tower,
            base=base,
            dtype=dtype,
            mesh="local",
        )
        self._max_images, self._frames = max_images, frames
        self._mean = reduction == "mean"
        self._unwanted_ends = {"\n\n"} if keep_blank_lines else set()
        self._seed, self._strict = seed, strict
        self._notes: Counter[str] = Counter()

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict | None = None) -> JaxLlava:
        """As the harness's, except that an argument given twice (it always gives its --batch_size) is no error."""
        given = {name: value for name, value in (additional_config or {}).items() if value is not None}
        arguments: dict[str, Any] = given | simple_parse_args_string(arg_string)
        return cls(**arguments)

    @property
    def device(self) -> str:
        """Where lmms-eval puts its own tensors."""
        return "cpu"

    # ------------------------------------------------------------ generation

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """One answer a request, in order."""
        writings = [dict(self._given(request)) for request in requests]
        answers = self._answers([self._ask(request) for request in requests], writings, "generate_until")
        self._report()
        return answers

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        """The answers of all rounds of each request; all that are still asking are answered together."""
        asks, writings, nexts = [], [], []
        for request in requests:
            context, given, visuals, ask_next, doc_id, task, split = request.args
            asks.append(self._simple(context, visuals, doc_id, task, split))
            writings.append(dict(given))
            document = self._document(task, split, doc_id)
            nexts.append(lambda told, ask_next=ask_next, document=document: ask_next(document(), **told))
        said: list[list[str]] = [[] for _ in requests]
        memory: list[Any] = [None] * len(requests)
        asking = list(range(len(requests)))
        turn = 0
        while asking:
            chosen = [asks[i] for i in asking], [writings[i] for i in asking]
            for i, answer in zip(asking, self._answers(*chosen, "generate_until_multi_round"), strict=True):
                said[i].append(answer)
            turn += 1
            going = []
            for i in asking:
                told = {"previous_output": said[i], "round_idx": turn, "previous_round_info": memory[i]}
                visuals, context, over, outputs, memory[i] = nexts[i](told)
                said[i] = list(outputs)
                if not over:
                    asks[i] = dataclasses.replace(
                        asks[i], context=str(context), visuals=lambda visuals=visuals: visuals
                    )
                    going.append(i)
            asking = going
        self._report()
        return said

    def _answers(self, asks: Sequence[Ask], given: Sequence[dict[str, Any]], kind: str) -> list[str]:
        if self._strict:
            self._check(asks)
        answers = [""] * len(asks)
        writings: dict[Writing, list[int]] = {}
        ends: list[list[str]] = []
        for i, arguments in enumerate(given):
            writing, until, ignored = read_writing(arguments)
            writings.setdefault(writing, []).append(i)
            ends.append([text for text in until if text not in self._unwanted_ends])
            for name in ignored:
                self._notes[f"{asks[i].task}: {name}={arguments[name]!r} means nothing to jaxllava"] += 1
        places = self._answering.config.decoder.max_positions
        with self._progress(len(asks)) as progress:
            for number, (writing, window) in enumerate(
                (writing, window)
                for writing, chosen in writings.items()
                for window in self._windows(sorted(chosen, key=lambda i: len(asks[i].context)))
            ):
                found = {i: row for i in window if (row := self._row(asks[i])) is not None}
                # A task may allow more than the model has places: an answer gets those that are left.
                limits = [min(writing.max_new_tokens, places - len(row[0])) for row in found.values()]
                written = self._answering.answer(
                    list(found.values()),
                    limits,
                    writing.temperature,
                    writing.top_p,
                    self._seed + number,
                    self.batch_size,
                )
                for i, text in zip(found, written, strict=True):
                    answers[i] = cut(text, ends[i])
                    self.cache_hook.add_partial(kind, (asks[i].context, given[i]), answers[i])
                progress.update(len(window))
        return answers

    # ------------------------------------------------------------ likelihoods

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """(loss, whether greedy generation writes it) of each continuation, in order.

        The loss is minus the log-probability, or what `reduction` says: lmms-eval takes the choice of the *least*
        value for the answer, whatever its base class calls it. The space in front of a continuation, lmms-eval's
        delimiter, is left to the template, which writes its own. Choices of one question share its prompt.
        """
        questions: dict[tuple[Any, ...], list[int]] = {}
        asks, choices = [], []
        for i, request in enumerate(requests):
            if len(request.args) == 2:
                raise UserError(
                    f"task {request.task_name}: acc_mutual_info subtracts log-probabilities, where acc compares "
                    "losses; take it out of the task's metric_list."
                )
            context, choice, visuals, doc_id, task, split = request.args
            if callable(choice):
                choice = choice(self._document(task, split, doc_id)())
            ask = self._simple(context, visuals, doc_id, task, split)
            asks.append(ask)
            choices.append(str(choice).lstrip())
            questions.setdefault((ask.task, split, ask.doc_id, ask.context), []).append(i)
        texts = [[choices[i] for i in own] for own in questions.values()]
        longest = [max(own, key=len) if all(own) else "" for own in texts]
        self._check([asks[own[0]] for own in questions.values()], longest)
        alike: dict[int, list[list[int]]] = {}  # by how many choices
        for own in questions.values():
            alike.setdefault(len(own), []).append(own)
        found: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        with self._progress(len(requests)) as progress:
            for group in alike.values():
                for window in self._windows(sorted(group, key=lambda own: len(asks[own[0]].context))):
                    read = [prompt_of(asks[i], self._frames, self._max_images) for i, *_ in window]
                    sums, counts, greedy = self._answering.continuations(
                        [prompt for prompt, _, _ in read],
                        [pictures for _, pictures, _ in read],
                        [[choices[i] for i in own] for own in window],
                        end=self._mean,
                        batch_size=self.batch_size,
                    )
                    losses = -sums / counts if self._mean else -sums
                    for row, own in enumerate(window):
                        for place, i in enumerate(own):
                            found[i] = float(losses[row, place]), bool(greedy[row, place])
                            self.cache_hook.add_partial(
                                "loglikelihood", (asks[i].context, choices[i]), found[i]
                            )
                    progress.update(sum(map(len, window)))
        self._report()
        return found

    # ------------------------------------------------------------ requests

    def _given(self, request: Any) -> dict[str, Any]:
        return request.args[1]

    def _ask(self, request: Any) -> Ask:
        context, _, visuals, doc_id, task, split = request.args
        return self._simple(context, visuals, doc_id, task, split)

    def _simple(self, context: Any, visuals: Callable | None, doc_id: Any, task: str, split: str) -> Ask:
        document = self._document(task, split, doc_id)
        return Ask(task, doc_id, str(context), (lambda: visuals(document())) if visuals else None)

    def _document(self, task: str, split: str, doc_id: Any) -> Callable[[], Any]:
        return lambda: self.task_dict[task][split][doc_id]

    def _row(self, ask: Ask, answer: str = "") -> Row | None:
        """A request as the model takes it; None, and why in `failed`, where it cannot."""
        try:
            prompt, pictures, note = prompt_of(ask, self._frames, self._max_images)
            (row,) = self._answering.read([prompt], [pictures], answer)
            places = self._answering.config.decoder.max_positions
            if len(row[0]) >= places:
                raise UserError(
                    f"{len(row[0])} tokens; the model has {places} places, and needs one to answer"
                )
        except UserError as error:
            reason = str(error).removeprefix("prompt 0").lstrip(",: ")
            if ask.name not in self.failed:
                logger.error(f"{ask.name}: {reason}")
            self.failed[ask.name] = reason
            return None
        if note:
            self._notes[f"{ask.task}: {note}"] += 1
        return row

    def _check(self, asks: Sequence[Ask], answers: Sequence[str] | None = None) -> None:
        """Raises one UserError for all requests that cannot be read, before anything is computed."""
        before = set(self.failed)
        for i, ask in enumerate(asks):
            if answers is not None and not answers[i]:
                self.failed[ask.name] = "a choice is empty"
            else:
                self._row(ask, answers[i] if answers else "")
        self._notes.clear()  # they come again
        if new := [name for name in self.failed if name not in before]:
            named = "; ".join(f"{name}: {self.failed[name]}" for name in new[:_NAMED])
            more = f"; and {len(new) - _NAMED} more, logged above" if len(new) > _NAMED else ""
            raise UserError(f"{len(new)} of {len(asks)} requests cannot be read: {named}{more}.")

    def _windows(self, chosen: list[Any]) -> Iterator[list[Any]]:
        """Parts to read at once, whole batches each; a rest too small for one goes with the part in front of it."""
        size = _BATCHES_READ * self.batch_size
        start = 0
        while start < len(chosen):
            stop = start + size if len(chosen) - start - size >= self.batch_size else len(chosen)
            yield chosen[start:stop]
            start = stop

    def _progress(self, total: int) -> tqdm:
        return tqdm(total=total, desc="Model Responding", disable=self.rank != 0)

    def _report(self) -> None:
        """Says what was changed or left out, once a kind of requests."""
        for note, count in self._notes.items():
            logger.warning(f"{note} ({count} requests)")
        self._notes.clear()
        if self.failed:
            named = "; ".join(f"{name}: {reason}" for name, reason in list(self.failed.items())[:_NAMED])
            logger.error(
                f"{len(self.failed)} requests could not be read and were answered with nothing, which their tasks "
                f"score: {named}{'; ...' if len(self.failed) > _NAMED else ''}"
            )


def _keep_likelihoods() -> None:
    """Lets likelihoods through lmms-eval's evaluator, where this version would not.

    Up to 0.7.3 (no release is newer) it makes a string of every output that is not text, (loss, greedy) too, and the
    scoring of multiple choice then fails, whatever the model. From its cache the pair comes as a list.
    """
    from lmms_eval import evaluator  # pyright: ignore[reportMissingImports]

    unwrap = evaluator.unwrap_generation_output
    if unwrap((0.0, True))[0] == (0.0, True):
        return

    def keep(output: Any) -> tuple[Any, Any]:
        if isinstance(output, (tuple, list)) and len(output) == 2 and isinstance(output[0], float):
            return tuple(output), None
        return unwrap(output)

    evaluator.unwrap_generation_output = keep


class JaxLlavaChat(JaxLlava):
    """The same for tasks' messages, with each picture where its message has it. Generation only, as in lmms-eval."""

    is_simple = False

    def _given(self, request: Any) -> dict[str, Any]:
        return request.args[2]

    def _ask(self, request: Any) -> Ask:
        context, messages, _, doc_id, task, split = request.args
        document = self._document(task, split, doc_id)
        return Ask(task, doc_id, str(context), messages=lambda: messages(document()))

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[list[str]]:
        raise NotImplementedError(
            "several rounds of messages: use --model jaxllava, which takes them as text."
        )


_ARGUMENTS = (
    "pretrained", "batch_size", "dtype", "template", "base", "vision_tower", "max_images", "frames", "reduction",
    "keep_blank_lines", "seed", "strict",
)  # fmt: skip
