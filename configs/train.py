"""One training stage. `jaxllava train --config configs/train.py:stage=behavior --config.data=DIR --config.base=MODEL`.

Stages: `align` (projector alone on image-caption pairs), `instruct` (decoder and projector), `behavior`, `ad` and
`shuffled` (the arms: behaviour data and instruction data 1:1, as in Behavior-LLaVA section 3.3).
"""

from __future__ import annotations

from ml_collections import ConfigDict

from configs.arguments import parse

# (regex over parameter paths -> multiple of the learning rate, None is frozen). First match wins.
# A pattern of the parts that every LLaVA has; `image_newline` is LLaVA-NeXT's alone.
# `qformer`, `qformer_norm` and `context` are LLaMA-VID's: its stage 1 trains the context's projections beside the
# projector, its stage 2 the Q-Former too.
ALL_BUT_TOWER = (
    (r"vision/.*", None),
    (r"(projector|decoder|qformer|qformer_norm|context)/.*|image_newline", 1.0),
)
PROJECTOR = (
    (r"(projector|context)/.*", 1.0),
    (r"(vision|decoder|qformer|qformer_norm)/.*|image_newline", None),
)
DECODER = (
    (r"decoder/.*", 1.0),
    (r"(vision|projector|qformer|qformer_norm|context)/.*|image_newline", None),
)
EVERYTHING = ((r".*", 1.0),)
ADAM = ((r".*", "adam"),)
MUON = ((r".*layers/(attn|mlp)/.*kernel|projector/.*kernel", "muon"), (r".*", "adam"))
# Norms, biases and embeddings' positions are not decayed (the reference: no LayerNorm, no bias).
DECAY = ((r".*(bias|scale|_embedding|logit_scale)", 0.0), (r".*", 1.0))

# stage: (mixture of splits, who trains, template or "" for the base model's, peak learning rate)
STAGES = {
    "align": ((("caption_train", 1.0),), PROJECTOR, "plain", 1e-3),
    "instruct": ((("instruct_train", 1.0),), ALL_BUT_TOWER, "", 2e-5),
    "behavior": ((("behavior_train", 1.0), ("instruct_train", 1.0)), ALL_BUT_TOWER, "", 2e-5),
    "ad": ((("ad_train", 1.0), ("instruct_train", 1.0)), ALL_BUT_TOWER, "", 2e-5),
    "shuffled": ((("shuffled_train", 1.0), ("instruct_train", 1.0)), ALL_BUT_TOWER, "", 2e-5),
}


def get_config(arg: str = "") -> ConfigDict:
    """`arg`: `stage=NAME` of the table above (default `behavior`); `alone`: without its instruction data."""
    values = parse(arg, stage="behavior", alone=False, choices={"stage": STAGES})
    stage = values.stage
    mixture, lr_rules, template, lr = STAGES[stage]
    mixture = mixture[:1] if values.alone else mixture
    config = ConfigDict()
    config.stage = stage
    # -- data
    config.data = ""  # a folder of records that `jaxllava prepare` wrote
    config.mixture = mixture
    config.mixture_epochs = 1.0  # of the first split, in one pass over the rows
    config.template = template
    config.reference_quirks = False  # the label masks of LLaVA's own code, counting mistakes included
    config.image_mode = ""  # square (centre crop), pad (whole picture), stretch, "" for the base model's
    config.row_tokens = 512  # a row of the batch
    config.row_images = 4
    # A folder for what a frozen tower and Q-Former give of the frames: computed before the first step, and read in
    # place of pictures in every pass (LLaMA-VID's long films). Several runs and hosts may share it.
    config.features = ""
    config.clip_frames = 0  # of a video, at most, evenly spread; 0 is all that its record holds
    config.sample_tokens = 0  # a longer sample is cut to it; 0, or more than a row has, is the row
    config.batching = "packed"  # or "padded": one sample a row, in batches as LLaVA's own code makes them
    config.pad_multiple = 256  # padded: a batch is as long as its longest sample, rounded up to this
    config.batch = 16  # rows, over all hosts and micro-batches
    config.samples_per_step = 0  # in place of `batch`: as many rows as hold about so many samples
    config.accumulate = 1
    config.loss_chunks = 8  # the vocabulary's logits of a row in so many parts: less memory
    config.workers = 0  # processes that read ahead, on each host; the batches do not depend on it
    # -- model
    config.architecture = ""  # a published one by name, for `plan` where no base is at hand
    config.base = ""  # a LLaVA to start from: of jaxllava, Hugging Face or the original's kind
    # or a new LLaVA put together from folders of Hugging Face (or ours), with a fresh projector between:
    config.vision_tower = ""  # CLIP or SigLIP; eva_vit_g.pth for a LLaMA-VID
    config.decoder = ""  # a text model with its tokenizer
    config.projector = "mlp2x_gelu"
    # and for a new LLaMA-VID:
    config.qformer = ""  # instruct_blip_vicuna7b_trimmed.pth: Q-Former, queries and the norm before it
    config.question_tokenizer = ""  # a folder of bert-base-uncased; also for a base that has none of its own
    config.compress = (
        ""  # content tokens of a frame: mean, grid:N, none; "" for the base's, of a new one mean
    )
    config.qformer_class = ""  # seen or hidden: the tower's class token, to a Q-Former; "" for the base's
    config.image_size = 0  # pixels that its tower reads; 0 is what the tower's positions are for
    config.init = (
        (r".*", None),
    )  # regex -> folder (also of a CLIP, SigLIP or text model) that replaces these
    config.dtype = ""  # of the computation; "" for the base model's
    config.frozen_dtype = "float32"  # in which what does not train is held
    config.save_dtype = ""  # of the model that the run leaves; "" is float32 for what trained
    config.attention = ""  # xla, cudnn, splash, auto; "" for the base model's
    config.rope_factor = 0.0  # positions divided by it, for rows longer than the base knows; 0: the base's
    config.remat = ""  # none, full, dots, ...; "" for the base model's
    config.lora_rules = ()  # regex -> (rank, alpha, dropout) | None; () is no adapter anywhere
    config.quantize_rules = ()  # regex -> "nf4" | None, of frozen kernels; () is none
    config.tpu_options = ()  # (name, value) pairs for XLA's compiler of TPUs; elsewhere they do nothing
    config.devices = 0  # how many to use, 0 is all
    config.mesh = (1, -1, 1)  # data, fsdp, tensor; -1 is what is left
    config.sharding_rules = "llava"
    # -- optimizer; learning rate, schedule and betas as LLaVA's scripts
    config.lr = lr
    config.lr_rules = lr_rules
    config.warmup = 0.03
    config.weight_decay = 0.0
    config.decay_rules = DECAY
    config.method_rules = ADAM  # or "muon", for matrices of models that start from nothing
    config.muon_scale = 5.0  # its multiple of the learning rate
    config.b1, config.b2, config.eps = 0.9, 0.999, 1e-8
    config.clip_norm = 1.0
    # -- run
    config.steps = 100  # 0: one pass over the rows, which is `mixture_epochs`
    config.seed = 0
    config.log_every = 10
    config.checkpoint_every = 100
    config.keep = 2  # newest checkpoints
    config.keep_best = 0  # and as many of the lowest validation loss
    config.export_best = False  # the model is that of the best checkpoint, not of the last step
    config.validation = ()  # a mixture like the one above, whose loss is measured with each checkpoint
    config.validation_rows = 64  # of it, at most
    config.tensorboard = True
    config.profile_at = 0  # the first of the steps that the profiler records, 0 is none
    config.profile_steps = 3
    config.barrier_minutes = 10.0  # how long hosts wait for one another before they give up
    return config
