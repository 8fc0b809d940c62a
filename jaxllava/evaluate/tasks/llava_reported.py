"""The figures that LLaVA-1.5, LLaVA-1.6 and LLaMA-VID report on LLaVA's benchmarks.

Sources: docs/MODEL_ZOO.md of haotian-liu/LLaVA (1.5 and 1.6), the LLaVA-1.5 paper (HD-13B), LLaMA-VID's
README.
"""

from __future__ import annotations

from jaxllava.evaluate.tasks.task import Reported

_NAMES_15 = "vqav2_test gqa vizwiz_test scienceqa_img textvqa pope mme mmbench mmbench_cn seed llava_bench_wild mm_vet"
_ROWS_15 = {
    "LLaVA-1.5 7B": "78.5 62.0 50.0 66.8 58.2 85.9 1510.7 64.3 58.3 58.6 65.4 31.1",
    "LLaVA-1.5 13B": "80.0 63.3 53.6 71.6 61.3 85.9 1531.3 67.7 63.6 61.6 72.5 36.1",
    "LLaVA-1.5 7B LoRA": "79.1 63.0 47.8 68.4 58.2 86.4 1476.9 66.1 58.9 60.1 67.9 30.2",
    "LLaVA-1.5 13B LoRA": "80.0 63.3 58.9 71.2 60.2 86.7 1541.7 68.5 61.5 61.3 69.5 38.3",
    # Of POPE HD has three figures and no mean.
    "LLaVA-1.5 HD-13B": "81.8 64.7 57.5 71.0 62.5 - 1500.1 68.8 61.9 62.6 72.0 39.4",
}
# LLaVA-1.6's SEED is of pictures alone; its MME is perception (cognition: 332, 326, 321 and 397).
_NAMES_16 = _NAMES_15.replace("seed", "seed_image")
_ROWS_16 = {
    "LLaVA-1.6 Vicuna-7B": "81.8 64.2 57.6 70.1 64.9 86.5 1519 67.4 60.6 70.2 81.6 43.9",
    "LLaVA-1.6 Vicuna-13B": "82.8 65.4 60.5 73.6 67.1 86.2 1575 70 64.4 71.9 87.3 48.4",
    "LLaVA-1.6 Mistral-7B": "82.2 64.8 60.0 72.8 65.7 86.7 1498 68.7 61.2 72.2 83.2 47.3",
    "LLaVA-1.6 Yi-34B": "83.7 67.1 63.8 81.8 69.5 87.7 1631 79.3 79 75.9 89.6 57.4",
}
_NAMES_VID = "gqa mmbench mme pope seed scienceqa_img vizwiz_test vqav2_test"
_ROWS_VID = {
    "LLaMA-VID 7B-224": "63.0 65.3 1405.6 86.6 59.7 67.7 52.5 78.3",
    "LLaMA-VID 7B-336": "64.3 65.1 1521.4 86.0 59.9 68.3 54.2 79.3",
    "LLaMA-VID 13B-336": "65.0 66.6 1542.3 86.0 62.3 70.0 54.3 80.0",
}
_MORE = {
    "seed_image": {"LLaVA-1.5 7B": 66.1, "LLaVA-1.5 13B": 68.2},
    "llava_bench_wild": {"OpenFlamingo": 19.1, "BLIP-2": 38.1, "LLaVA": 67.3},
}


def zero_shot(task: str, note: str = "") -> dict[str, Reported]:
    """`Task.reported` of a task by its name."""
    figures = dict(_MORE.get(task, {}))
    for names, rows in ((_NAMES_15, _ROWS_15), (_NAMES_16, _ROWS_16), (_NAMES_VID, _ROWS_VID)):
        if task in names.split():
            column = names.split().index(task)
            figures |= {system: float(x) for system, row in rows.items() if (x := row.split()[column]) != "-"}
    return {"zero-shot": Reported(figures, note=note)} if figures else {}
