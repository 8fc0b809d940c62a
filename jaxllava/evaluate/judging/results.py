"""Judged results on disk: `TASK/judged-JUDGE/result.json` below --out."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from input_pipeline.errors import UserError

RESULT = "result.json"


def folder_name(judge: str) -> str:
    """judged-NAME for a folder; names that no folder can have get a hash."""
    plain = re.sub(r"[^A-Za-z0-9._@+=-]+", "-", judge).strip("-.")[-60:]
    if plain != judge:
        plain += f"-{hashlib.sha256(judge.encode()).hexdigest()[:8]}"
    return f"judged-{plain.lstrip('-.')}"


def results_in(out: Path) -> list[dict[str, Any]]:
    """All judged results below --out. Raises UserError where one cannot be read."""
    found = []
    for path in sorted(out.glob(f"*/judged-*/{RESULT}")):
        try:
            result = json.loads(path.read_text("utf-8"))
            bool(result["task"] and result["judge"] and result["figures"] is not None)
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} cannot be read ({error!r}); remove it and judge again") from None
        found.append(result)
    return found


def forget(folder: Path) -> None:
    """Removes a task's judged figures: it is about to have more answers."""
    for path in folder.glob(f"judged-*/{RESULT}"):
        path.unlink()
