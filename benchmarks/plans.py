"""`jaxllava plan` for the recipes on TPU slices: docs/plan.md's table. Needs libtpu and no TPU; some minutes a line.

    python -m benchmarks.plans --out docs/results/DATE-plans.json [--only llama_vid]

Given again it goes on behind what the file has. `--table` prints the table of what is there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SHORT = ("--config.row_tokens=2048", "--config.row_images=1")
RINGS = ("--config.tpu_options=()",)  # as XLA does without being told: kernels gathered in pieces
# (recipe, topology, more flags)
PLANS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("llava_v1_5:size=7b,stage=2", "v5e:4x8", SHORT),
    ("llava_v1_5:size=7b,stage=2", "v5p:2x2x4", ()),
    ("llava_v1_5:size=7b,stage=2", "v6e:4x8", ()),
    ("llava_v1_5:size=13b,stage=2", "v5e:8x8", ()),
    ("llava_v1_5:size=7b,stage=2", "v5e:4x8", ()),
    ("llava_v1_5:size=7b,stage=2", "v5e:4x8", (*SHORT, *RINGS)),
    ("llava_v1_5:size=7b,stage=1", "v5e:4x4", ()),
    ("llava_v1_5:size=7b,stage=2", "v4:2x2x4", ()),
    # At a number of rows that is given, not searched for.
    ("llava_v1_5:size=7b,stage=2,lora", "v5e:4x4", ("--rows=96",)),
    ("behavior_llava:arm=behavior,size=13b", "v5e:8x16", ("--rows=384",)),
    ("behavior_llava:arm=behavior,size=13b", "v6e:8x8", ("--rows=512",)),
    ("behavior_llava:arm=behavior,size=13b", "v5p:2x4x4", ("--rows=640",)),
    ("scienceqa", "v5e:8x8", ("--rows=128",)),
    ("llava_v1:stage=2", "v5e:4x8", ("--rows=128",)),
    ("siglip_qwen:stage=2", "v6e:2x4", ("--rows=32",)),
    ("llava_v1_5:size=7b,stage=2", "v5e:16x16", ("--rows=1024",)),
    ("llava_v1_5:size=7b,stage=2,qlora", "v5e:2x4", ("--rows=40",)),
    ("llama_vid:size=7b,stage=3", "v5p:2x2x2", ("--rows=8",)),
    ("llama_vid:size=7b,stage=3", "v5p:2x2x4", ("--rows=8", "--config.mesh=1,8,2")),
    (
        "llama_vid:size=7b,stage=3",
        "v5e:4x8",
        ("--rows=8", "--config.mesh=1,4,8", "--config.accumulate=2"),
    ),
    ("behavior_llava:base=llama_vid,size=7b", "v5e:4x8", ("--rows=32",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--only", default="", help="of the recipes, those whose name has this text in it")
    args = parser.parse_args()
    found: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    if args.table:
        print(table(found))
        return
    failed: list[str] = []
    for recipe, topology, flags in PLANS:
        name = " ".join((recipe, topology, *flags))
        if name in found or args.only not in name:
            continue
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            command = ["plan", "--config", recipe, "--topology", topology, "--json", file.name, *flags]
            done = subprocess.run(
                [sys.executable, "-m", "jaxllava", *command], capture_output=True, text=True, check=False
            )
            said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            if done.returncode and "does not fit" not in said:
                failed.append(name)
                print(f"{name}: {said}", file=sys.stderr, flush=True)
                continue
            found[name] = {"error": said} if done.returncode else json.loads(Path(file.name).read_text())
        args.out.write_text(json.dumps(found, indent=1) + "\n")
        print(name, found[name].get("error", "planned"), flush=True)
    if failed:
        raise SystemExit(f"{len(failed)} of {len(PLANS)} plans failed")


def table(found: dict[str, Any]) -> str:
    """Markdown: a line for each plan, at its fastest batch."""
    lines = [
        "| recipe | slice | rows x tokens | parameters + optimizer + temporary = GiB of a chip | step, s | MFU |",
        "|---|---|---|---|---|---|",
    ]
    for name, plan in found.items():
        recipe, topology, *flags = name.split(" ", 2)
        mark = " (2048 tokens)" if "row_tokens=2048" in " ".join(flags) else ""
        mark += " (kernels in pieces)" if "tpu_options" in " ".join(flags) else ""
        mark += f" (mesh {mesh[1]})" if (mesh := re.search(r"config\.mesh=(\S+)", " ".join(flags))) else ""
        mark += " (rows given)" if "--rows" in " ".join(flags) else ""
        if "error" in plan:
            lines.append(f"| {recipe}{mark} | {topology} | {plan['error']} ||||")
            continue
        memory = plan["hbm_gib"]
        parts = " + ".join(f"{memory[key]:.2f}" for key in ("params", "optimizer", "temp"))
        lines.append(
            f"| {recipe}{mark} | {topology} | {plan['rows']} x {plan['row_tokens']} | {parts} = {memory['total']:.2f} "
            f"of {memory['capacity']:.2f} | {plan['projected_step_s']:.2f} | {100 * plan['projected_mfu']:.1f} % |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
