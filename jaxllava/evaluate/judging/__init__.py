"""Figures that a language model gives: it is asked about the answers that `jaxllava evaluate --tasks` wrote.

`JUDGES` says which tasks are judged, and how; the modules beside it are one protocol each.
"""

from __future__ import annotations

from jaxllava.evaluate.judging import captions, mm_vet, relative, science_qa, video_qa
from jaxllava.evaluate.judging.protocol import Judge, as_planned

_JUDGES: dict[str, Judge] = {
    "llava_bench_wild": relative.JUDGE,
    "llava_bench_coco": relative.JUDGE,
    "msvd_qa": video_qa.JUDGE,
    "msrvtt_qa": video_qa.JUDGE,
    "activitynet_qa": video_qa.JUDGE,
    "dense_captions": captions.JUDGE,
    "mm_vet": mm_vet.JUDGE,
    "scienceqa": science_qa.JUDGE,
    "scienceqa_img": science_qa.JUDGE,
    "scienceqa_lea": science_qa.JUDGE,
}
JUDGES: dict[str, Judge] = {name: as_planned(judge) for name, judge in _JUDGES.items()}
