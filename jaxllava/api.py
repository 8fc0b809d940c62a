"""`jaxllava.load(path)` and the model it returns: logits, generation, scoring."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerFast

from input_pipeline.asker import Asker
from input_pipeline.conversation import get_template
from input_pipeline.errors import UserError
from input_pipeline.frame_cache import FrameCache
from jaxllava import candidates as candidates_lib
from jaxllava import generate as generation
from jaxllava import identity, placement, sharding
from jaxllava.frames import FrameEncoder
from jaxllava.models.llama import is_unstacked, stack
from jaxllava.models.llama_vid import LlamaVidConfig
from jaxllava.models.llava import LlavaConfig, Params
from jaxllava.places import Places, alike, keys
from jaxllava.prompts import Pictures, Prompt, PromptReader, Row, Size, end_ids
from jaxllava.slots import Slots
from jaxllava.weights import source


def load(
    path: str | Path,
    template: str | None = None,
    vision_tower: str | Path | None = None,
    base: str | Path | None = None,
    dtype: str | None = None,
    mesh: Mesh | Literal["local"] | None = None,
    question_tokenizer: str | Path | None = None,
    features: str | Path | None = None,
) -> Model:
    """Opens a jaxllava model folder, the workdir of a run that left one, a Hugging Face or an original LLaVA folder.

    Args: template: a name of `conversation.TEMPLATES` in place of the folder's own. A Hugging Face folder
    that was not exported from here is read as the format of llava-hf's chat template for its text model; an
    original one as LLaVA's own. vision_tower, base, question_tokenizer: see `weights.source.open_checkpoint`. dtype:
    of the weights; by default they keep theirs, and all but float32 ones compute in bfloat16. "float32" gives the
    numbers of transformers' `from_pretrained(path, dtype=torch.float32)`. mesh: devices of this host to lay the model
    out on, with batches cut over its data axes; "local" is `sharding.local_mesh` of all of them, None the first
    device. features: a folder in which a LLaMA-VID keeps what its tower sees of videos, for other questions about them.
    Raises UserError where the folder is missing or is neither.
    """
    found = source.open_checkpoint(path, vision_tower, base, question_tokenizer)
    found = found.astype(dtype) if dtype else found
    config = found.config
    if not isinstance(config, LlavaConfig):
        raise UserError(
            f"{path}: holds {found.kind}, not a LLaVA; it can start one (config.init), not answer."
        )
    if features and not isinstance(config, LlamaVidConfig):
        raise UserError(
            f"{path}: holds a LLaVA without a Q-Former; features of videos (--features) are kept of a LLaMA-VID alone"
        )
    if found.tokenizer is None:
        raise UserError(f"{path}: holds no tokenizer (tokenizer.json, tokenizer.model); copy it there.")
    if mesh == "local":
        mesh = sharding.local_mesh(placement.size(found.leaves))
    params = placement.read(found.leaves, mesh)
    parts = [Path(one) for one in (path, vision_tower, base) if one is not None]
    seen_by = [identity.of_folder(one) for one in parts] + [str(config.vision)]  # the dtype is in it
    cache = FrameCache(features, " ".join(seen_by)) if features else None
    template = template or found.template
    return Model(config, params, found.tokenizer, template, found.stops, mesh, found.asker, cache)


class Model:
    """A LLaVA with its tokenizer and prompt template.

    Prompts are strings (one user turn) or lists of Turn ending with the human. `<image>` marks an image's
    place; where images are given and no mark is, `<image>\\n` is put in front for each. Images are, per
    prompt, None, one image or a list: a path, an encoded file's bytes, a PIL image, or a `Video`; a path of a film is
    a video of one frame a second.
    """

    def __init__(
        self,
        config: LlavaConfig,
        params: Params,
        tokenizer: PreTrainedTokenizerFast,
        template: str,
        stops: Sequence[int] = (),
        mesh: Mesh | None = None,
        asker: Asker | None = None,
        features: FrameCache | None = None,
    ) -> None:
        """`stops`: ids that end an answer beside the tokenizer's EOS and the template's own end. `mesh`: where
        `params` are laid out, see `load`. `asker`, `features`: a LLaMA-VID's question tokenizer, and where it keeps
        what it sees of videos.
        """
        self.config = config
        self._places = Places(mesh)
        self._params = placement.apart(params) if mesh is None and placement.reads_layers_apart() else params
        self.tokenizer = tokenizer
        self.template = template
        self.module = config.module()
        self.asker = asker
        encoder = None
        if isinstance(config, LlamaVidConfig):
            if asker is None:
                raise UserError("a LLaMA-VID needs its question tokenizer; open the model by its folder.")
            asker.check(config.qformer.vocab_size, config.qformer.max_positions)
            encoder = FrameEncoder(config, self._params, self._places.context, self._places.put, features)
        self._reader = PromptReader(config, tokenizer, template, asker, encoder)
        self._end_ids = end_ids(tokenizer, template, stops)
        pad: Any = tokenizer.pad_token_id
        self._pad_id: int = 0 if pad is None else pad
        self._forward = jax.jit(self._full)

    @property
    def params(self) -> Params:
        """The parameters as training and exports have them, with the decoder's layers stacked."""
        decoder = self._params["decoder"]
        return self._params | {"decoder": stack(decoder)} if is_unstacked(decoder["layers"]) else self._params

    @property
    def dtype(self) -> str:
        """The name of the type that the parameters are in."""
        return str(jax.tree.leaves(self._params)[0].dtype)

    # ------------------------------------------------------------ logits

    def logits(
        self, input_ids: Any, pixel_values: Any = None, attention_mask: Any = None, image_sizes: Any = None
    ) -> np.ndarray:
        """The whole forward pass, as `LlavaForConditionalGeneration` and its Next cousin compute it.

        Args:
          input_ids: int [B, L], the image token at every position of an image.
          pixel_values: float [N, H, W, 3], normalised; assigned in the order of the image tokens over the
          batch. With anyres [N, views, H, W, 3], padded behind a picture's own views.
          attention_mask: [B, L], 0 on padding (of either side); its logits mean nothing.
          image_sizes: int [N, 2], (height, width) of the pictures; with anyres only.

        Returns float32 [B, L, V]. Raises UserError where image tokens and images do not match.
        """
        if isinstance(self.config, LlamaVidConfig):
            raise UserError(
                "a LLaMA-VID looks at pictures for a question: use generate, score or loglikelihood."
            )
        tokens = np.asarray(input_ids, np.int32)
        valid = np.ones_like(tokens) if attention_mask is None else np.asarray(attention_mask, np.int32)
        pictures = [] if pixel_values is None else [np.asarray(one, np.float32) for one in pixel_values]
        views, image_index = self._reader.shared_out(tokens, pictures, image_sizes)
        return self._logits(tokens, valid, views, image_index)

    def _logits(
        self, tokens: np.ndarray, valid: np.ndarray, views: list[list[np.ndarray]], image_index: np.ndarray
    ) -> np.ndarray:
        size = self.config.vision.image_size
        pixels = np.zeros((len(tokens), max(map(len, views)), size, size, 3), np.float32)
        for row, own in enumerate(views):
            if own:
                pixels[row, : len(own)] = own
        positions = np.maximum(np.cumsum(valid, axis=1) - 1, 0).astype(np.int32)
        with self._places.context():
            return np.asarray(self._forward(self._params, tokens, positions, valid, pixels, image_index))

    def _full(
        self, params: Params, tokens: Any, positions: Any, segments: Any, pixels: Any, index: Any
    ) -> jax.Array:
        hidden = self.module.apply({"params": params}, tokens, positions, segments, pixels, index)
        return self.module.apply({"params": params}, hidden, method="logits")  # type: ignore[return-value]

    def length(self, prompt: Prompt, sizes: Sequence[Size | Sequence[Size]] = (), answer: str = "") -> int:
        """Positions that a prompt with the start of an answer takes; `config.decoder.max_positions` go in.

        Args: sizes: (width, height) of its pictures, of a video a sequence of those of its frames; they are not needed
        themselves.
        """
        return self._reader.length(prompt, sizes, answer)

    # ------------------------------------------------------------ generation

    def generate(
        self,
        prompts: Sequence[Prompt],
        images: Pictures = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        batch_size: int = 16,
        answer_prefix: str | Sequence[str] = "",
    ) -> list[str]:
        """One answer a prompt, in order, without special tokens and outer spaces (nor the answer prefix).

        temperature 0 is greedy; otherwise a prompt's seed decides its answer, whatever the batches: one of a
        sequence, or one number and the prompt's place in the list.
        """
        if max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {max_new_tokens}; it must be at least 1.")
        rows = self.read(prompts, images, answer_prefix)
        self._check_lengths([len(tokens) + max_new_tokens for tokens, _, _ in rows])
        return self.answer(rows, max_new_tokens, temperature, top_p, seed, batch_size)

    def read(
        self,
        prompts: Sequence[Prompt],
        images: Pictures = None,
        answer_prefix: str | Sequence[str] = "",
        system: str = "",
    ) -> list[Row]:
        """Prompts as the model takes them, (tokens [L], image_index [L], views uint8 [m, H, W, 3]) each, for
        `answer`.

        Args: system: in place of the template's own system prompt, or in front of the first question where the template
        has none. Raises UserError for a picture that cannot be read, and for marks that do not match the pictures.
        """
        prefixes = candidates_lib.one_each(answer_prefix, len(prompts))
        reader = self._reader.told(system) if system else self._reader
        return [
            reader.row(i, turns, pictures, prefixes[i])
            for i, (turns, pictures) in enumerate(reader.inputs(prompts, images))
        ]

    def answer(
        self,
        rows: Sequence[Row],
        max_new_tokens: int | Sequence[int] = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        batch_size: int = 16,
    ) -> list[str]:
        """`generate` for rows that were read, each with a limit and a seed of its own if sequences are given."""
        written = self.write(rows, max_new_tokens, temperature, top_p, seed, batch_size)
        return [text for text, _, _ in written]

    def write(
        self,
        rows: Sequence[Row],
        max_new_tokens: int | Sequence[int] = 128,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        batch_size: int = 16,
    ) -> list[tuple[str, int, bool]]:
        """`answer` with what became of each: (text, new tokens, whether the limit cut it)."""
        rows = list(rows)
        limits = [max_new_tokens] * len(rows) if isinstance(max_new_tokens, int) else list(max_new_tokens)
        answers = [("", 0, False)] * len(rows)
        ending = self.ending
        key = jax.random.key(seed if isinstance(seed, int) else 0)
        draws = range(len(rows)) if isinstance(seed, int) else list(seed)
        full = min(batch_size, len(rows))
        for chosen in alike(rows, batch_size):
            batch = self._places.stack([rows[i] for i in chosen], self._pad_id, full)
            padded = [*chosen, *[chosen[-1]] * (len(batch.tokens) - len(chosen))]
            with self._places.context():
                tokens, counts = generation.generate(
                    self.module,
                    self._params,
                    batch,
                    max_new_tokens=[limits[i] for i in padded],
                    end_ids=self._end_ids,
                    temperature=temperature,
                    top_p=top_p,
                    key=keys(key, [draws[i] for i in padded]) if temperature > 0 else None,
                )
            for place, i in enumerate(chosen):
                ids = tokens[place, : counts[place]].tolist()
                text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
                # An end that is no token of its own (v0's ###) is found in the text.
                text, end, _ = text.partition(ending) if ending else (text, "", "")
                answers[i] = (text.strip(), len(ids), len(ids) == limits[i] and not end)
        return answers

    @property
    def ending(self) -> str:
        """What ends an answer as text, where that is no token of its own (v0's ###); else what no answer has."""
        return get_template(self.template).parts.answer[1].strip()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The tokens that end an answer."""
        return self._end_ids

    def slots(self, count: int, length: int) -> Slots:
        """Room for `count` answers at a time that begin and end one by one, each with its prompt at most `length`."""
        return Slots(self.module, self._params, self._pad_id, count, length, self._places.context)

    # ------------------------------------------------------------ scoring

    def score(
        self,
        prompts: Sequence[Prompt],
        images: Pictures,
        candidates: Sequence[str] | Sequence[Sequence[str]],
        answer_prefix: str | Sequence[str] = "",
        *,
        reduction: Literal["sum", "mean"] = "sum",
        end: bool | None = None,
        batch_size: int = 16,
    ) -> np.ndarray:
        """Log-probabilities of candidate answers, float64 [N, C] in nats; each prompt and image is run once.

        Args:
          candidates: what the assistant may say, the same for all prompts, or a list for each; written directly
            behind `answer_prefix` (one, or one a prompt), so a prefix that a word follows ends with a space. Where
            lists differ in length, C is that of the longest, and a row has -inf behind its own.
          reduction: the sum over a candidate's tokens, or their mean.
          end: count the end of the answer as part of each candidate. None: only where one candidate begins
            another ("1" and "10"), because the shorter one could then never be the less likely.
        """
        own = candidates_lib.for_prompts(candidates, len(prompts))
        longest = max(map(len, own), default=0)
        # The last one stands in for what a row lacks: its score is thrown away.
        filled = [row + row[-1:] * (longest - len(row)) for row in own]
        sums, counts, _ = self._continuations(prompts, images, filled, answer_prefix, end, batch_size)
        found = sums if reduction == "sum" else sums / np.maximum(counts, 1)
        for row, texts in zip(found, own, strict=True):
            row[len(texts) :] = -np.inf
        return found

    def loglikelihood(
        self,
        prompts: Sequence[Prompt],
        images: Pictures,
        answers: Sequence[str],
        answer_prefix: str | Sequence[str] = "",
        *,
        end: bool = False,
        batch_size: int = 16,
    ) -> tuple[np.ndarray, np.ndarray]:
        """How likely one answer per prompt is: (sums of token log-probs float64 [N], token counts int [N]).

        Perplexity over the answers is exp(-sums.sum() / counts.sum()).
        """
        if len(answers) != len(prompts):
            raise UserError(f"loglikelihood: {len(prompts)} prompts, {len(answers)} answers.")
        sums, counts, _ = self._continuations(
            prompts, images, [[a] for a in answers], answer_prefix, end, batch_size
        )
        return sums[:, 0], counts[:, 0]

    def continuations(
        self,
        prompts: Sequence[Prompt],
        images: Pictures,
        candidates: Sequence[Sequence[str]],
        answer_prefix: str | Sequence[str] = "",
        *,
        end: bool = False,
        batch_size: int = 16,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As `score`, of candidates of each prompt's own, and what is greedy; each prompt and image is run once.

        Args: candidates: one list a prompt, all of the same length C.
        Returns (sums of token log-probs float64 [N, C] in nats, token counts int [N, C], bool [N, C]: whether greedy
        generation writes the candidate, that is whether each of its tokens is the likeliest there).
        """
        if len(candidates) != len(prompts) or len({len(own) for own in candidates}) > 1:
            raise UserError("continuations: give each prompt a list of candidates, all of the same length.")
        own = [list(texts) for texts in candidates]
        return self._continuations(prompts, images, own, answer_prefix, end, batch_size, greedy=True)

    def _continuations(
        self,
        prompts: Sequence[Prompt],
        images: Pictures,
        candidates: list[list[str]],
        answer_prefix: str | Sequence[str],
        end: bool | None,
        batch_size: int,
        greedy: bool = False,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        if not len(prompts):
            return np.zeros((0, 0)), np.zeros((0, 0), int), np.zeros((0, 0), bool)
        prefixes = candidates_lib.one_each(answer_prefix, len(prompts))
        if end is None:
            end = any(
                candidates_lib.one_begins_another(set(texts))
                for texts in {tuple(texts) for texts in candidates}
            )
        known: dict[Any, np.ndarray] = {}
        read = [
            self._reader.continued(i, turns, pictures, prefixes[i], candidates[i], end, known)
            for i, (turns, pictures) in enumerate(self._reader.inputs(prompts, images))
        ]
        rows, tails = [row for row, _ in read], [tail for _, tail in read]
        self._check_lengths([len(r[0]) + max(map(len, t)) for r, t in zip(rows, tails, strict=True)])
        sums = np.zeros((len(rows), len(tails[0])))
        counts, taken = np.zeros(sums.shape, int), np.zeros(sums.shape, bool)
        for chosen in alike(rows, batch_size):
            full = min(batch_size, len(rows))
            batch = self._places.stack([rows[i] for i in chosen], self._pad_id, full)
            padded = [tails[i] for i in chosen] + [tails[chosen[-1]]] * (len(batch.tokens) - len(chosen))
            with self._places.context():
                found = generation.continuations(self.module, self._params, batch, padded, greedy)
            sums[chosen], counts[chosen], taken[chosen] = (part[: len(chosen)] for part in found)
        return sums, counts, taken

    def _check_lengths(self, lengths: list[int]) -> None:
        longest = int(np.argmax(lengths)) if lengths else 0
        most = self.config.decoder.max_positions
        if lengths and lengths[longest] > most:
            raise UserError(
                f"prompt {longest}: {lengths[longest]} tokens with its answer; the model has {most} places."
            )
