"""QVHighlights in small, under a --data-root: five queries on two videos, of 8 s and 6 s."""

from __future__ import annotations

import json
from pathlib import Path

from tests.jaxllava.benchmark_fixtures.small_media import film, text

QUERIES = (
    {"qid": 1, "query": "A dog runs.", "duration": 8, "vid": "aaa_0.0_8.0", "relevant_windows": [[2, 6]],
     "relevant_clip_ids": [1, 2], "saliency_scores": [[4, 4, 4], [3, 2, 1]]},
    {"qid": 2, "query": "A cat sits.", "duration": 8, "vid": "aaa_0.0_8.0", "relevant_windows": [[0, 2], [6, 8]],
     "relevant_clip_ids": [0, 3], "saliency_scores": [[4, 3, 4], [2, 2, 2]]},
    {"qid": 3, "query": "It rains.", "duration": 6, "vid": "bbb_6.0_12.0", "relevant_windows": [[0, 6]],
     "relevant_clip_ids": [0, 1, 2], "saliency_scores": [[4, 4, 4], [4, 4, 4], [3, 3, 3]]},
    {"qid": 4, "query": "A man waves.", "duration": 6, "vid": "bbb_6.0_12.0", "relevant_windows": [[4, 6]],
     "relevant_clip_ids": [2], "saliency_scores": [[4, 4, 2]]},
)  # fmt: skip


def write(root: Path) -> None:
    folder = root / "qvhighlights"
    hidden = ("relevant_windows", "relevant_clip_ids", "saliency_scores")
    for split in ("train", "val", "test"):
        rows = [{k: v for k, v in row.items() if split != "test" or k not in hidden} for row in QUERIES]
        lines = [json.dumps(row) for row in rows]
        lines += ['{"qid": 5, "query": " ", "duration": 8, "vid": "aaa_0.0_8.0"}', "{broken"]
        text(folder / f"highlight_{split}_release.jsonl", "\n".join(lines) + "\n")
    film(folder / "videos" / "aaa_0.0_8.0.mp4", 8)
    film(folder / "videos" / "bbb_6.0_12.0.mp4", 6, seed=1)


WRITERS = {"qvhighlights_moments": write, "qvhighlights_highlights": write}
