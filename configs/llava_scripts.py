"""What LLaVA's training scripts have in common, and what a row of ours holds: the ground that the recipes stand on.

Facts are of `haotian-liu/LLaVA` c121f04: `scripts/`, and `llava/train/train.py` for what the scripts leave unsaid.
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs import train

# Positions of one picture -> (tokens, pictures) of a packed row: with captions, and with conversations. A row holds
# several samples (a caption is some 16 tokens, a conversation some 200 to 300), and is as long as lets them fill it:
# 97 % or more of it on lengths like LLaVA's (`benchmarks/packing.py`). Rows of 2048 would hold two conversations and
# be 87 % full. Multiples of 512 suit the attention kernel.
ROWS = {
    729: ((3072, 4), (4096, 4)),
    576: ((3584, 6), (4096, 5)),
    256: ((4096, 15), (2048, 4)),
    196: ((4096, 19), (4096, 9)),
}

# XLA would gather kernels that FSDP cuts in small pieces around a ring, each multiplied by itself: the sums go through
# HBM once for each piece. Whole kernels are gathered beside the computation (docs/plan.md).
WHOLE_KERNELS = (("xla_jf_spmd_threshold_for_windowed_einsum_mib", "1000000"),)

# q, k, v, o, gate, up and down of the decoder (`find_all_linear_names`, train.py:169-182, without the tower's: there
# they match by a mistake, issues 1147, 1173, 1647).
_LINEAR = r"decoder/layers/(attn/(q|k|v|o)_proj|mlp/(gate|up|down)_proj)/kernel"
QLORA = ((_LINEAR, "nf4"), (r".*", None))  # --bits 4: quant_type nf4 is the default of train.py


def recipe(
    stage: str,
    *,
    architecture: str,
    lr: float,
    batch: int,
    image_tokens: int = 576,
    image_mode: str,
    template: str,
    epochs: float = 1.0,
    rows: tuple[int, int] | None = None,
    padded: bool = False,
    by_modality: bool = False,
) -> ConfigDict:
    """A stage of `configs/train.py` with what all the scripts say.

    Args:
        stage: a name in `train.STAGES`, which gives the mixture and who trains.
        architecture: what the recipe is for, a name in `jaxllava.models.presets`.
        batch: samples of an optimizer step, over all devices.
        image_tokens: positions of a picture, one of `ROWS`.
        rows: (tokens, pictures) of a packed row in place of those of `ROWS`.
        padded: one sample a row, in batches as LLaVA makes them; otherwise samples share rows, and a step takes as
            many rows as hold about `batch` samples.
        by_modality: of padded batches, `--group_by_modality_length`; otherwise they are drawn at random.
    """
    config = train.get_config(f"stage={stage}")
    config.architecture = architecture
    config.lr = lr
    config.mixture_epochs = float(epochs)
    config.steps = 0  # one pass over the rows, which is the epochs
    config.template = template
    config.image_mode = image_mode
    # -- batches
    config.sample_tokens = 2048  # --model_max_length 2048
    config.batch = batch
    if padded:
        config.batching = "padded" if by_modality else "padded_random"
        config.row_tokens, config.row_images = 2048, 1
    else:
        config.batching = "packed"
        config.samples_per_step = batch
        config.row_tokens, config.row_images = rows or ROWS[image_tokens][0 if template == "plain" else 1]
    config.workers = 4  # --dataloader_num_workers 4
    # -- model
    config.projector = "mlp2x_gelu"
    config.dtype = "bfloat16"  # --bf16 True
    config.frozen_dtype = "bfloat16"
    config.save_dtype = "bfloat16"
    config.attention = "auto"
    config.remat = "full"  # --gradient_checkpointing True
    config.tpu_options = WHOLE_KERNELS
    # -- AdamW of torch, cosine to 0
    config.warmup = 0.03  # --warmup_ratio 0.03
    config.weight_decay = 0.0  # --weight_decay 0.
    config.b1, config.b2, config.eps = 0.9, 0.999, 1e-8  # the defaults of transformers' TrainingArguments
    config.clip_norm = 1.0  # as well
    # -- run. The scripts keep nothing on the way (--save_steps 24000 or 50000); a run that can be stopped does.
    config.checkpoint_every = 500
    config.keep = 2
    return config


def with_lora(
    config: ConfigDict, *, rank: int, alpha: float, lr: float, projector_lr: float, quantized: bool = False
) -> ConfigDict:
    """Adapters on the decoder's linear layers in place of its weights; the projector trains whole.

    `lora_dropout` is 0.05 and the bias none by default of train.py. `quantized`: the weights under the adapters in
    4 bits (QLoRA).
    """
    config.lr = lr
    config.lora_rules = ((_LINEAR, (rank, float(alpha), 0.05)), (r".*", None))
    config.lr_rules = (
        (r"decoder/.*/lora_(a|b)", 1.0),
        (r"projector/.*", projector_lr / lr),
        (r"(vision|decoder)/.*|image_newline", None),
    )
    if quantized:
        config.quantize_rules = QLORA
    return config
