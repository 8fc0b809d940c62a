"""What a compiled program does: FLOPs, HBM bytes, bytes between chips, seconds.

XLA's own cost analysis counts the body of a loop once, and a training step is mostly loops over layers. Here a loop
counts as often as it runs, a fusion moves what it reads and writes in HBM (of a sliced operand the slice, of an update
in place the update), and a collective moves what a ring would move through one chip. Everything is of one chip.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from jaxllava.plan.hlo import Computation, Instruction, Module

# Cost nothing themselves; nor does what ends in "-done".
FREE = (
    "parameter", "tuple", "get-tuple-element", "bitcast", "constant", "iota", "after-all", "add-dependency",
    "partition-id", "replica-id", "opt-barrier", "optimization-barrier", "async-update",
)  # fmt: skip
# Counted by what they run.
CALLS = ("while", "call", "async-start", "conditional")
# Go on beside what the chip computes.
ASYNCHRONOUS = ("copy-start", "slice-start")
COLLECTIVES = (
    "all-gather", "all-reduce", "reduce-scatter", "all-to-all", "ragged-all-to-all", "collective-permute",
)  # fmt: skip
SCATTER = "all-reduce-scatter"  # libtpu's name of a fusion that is one reduce-scatter
# An instruction and the computation that it stands in.
Place = tuple[Instruction, Computation]
# name of a kernel call and the shapes of its operands -> FLOPs; None where it is unknown
KernelFlops = Callable[[str, list[tuple[int, ...]]], float | None]


@dataclass
class Cost:
    """Of one chip. `busy` is the sum over operations of what takes longer, arithmetic or HBM.

    by_collective: bytes. waited_bytes: those of collectives that nothing else goes on beside. by_place: (busy, flops,
    hbm_bytes) by the name that an operation has in the source.
    unknown: kernels whose FLOPs are not known, and how often they run.
    """

    flops: float = 0.0
    hbm_bytes: float = 0.0
    collective_bytes: float = 0.0
    waited_bytes: float = 0.0
    busy: float = 0.0
    by_collective: dict[str, float] = field(default_factory=dict)
    by_place: dict[str, tuple[float, ...]] = field(default_factory=dict)
    unknown: dict[str, float] = field(default_factory=dict)


def of(
    module: Module, peak: float, bandwidth: float, kernel_flops: KernelFlops, entry: str | None = None
) -> Cost:
    """The whole program, or one computation, at `peak` FLOPs and `bandwidth` bytes of HBM a second.

    A loop whose end only the run knows counts once (`Module.open_loops`).
    """
    return _Walk(module, peak, bandwidth, kernel_flops).total(entry or module.entry)


class _Walk:
    def __init__(self, module: Module, peak: float, bandwidth: float, kernel_flops: KernelFlops) -> None:
        self.module, self.peak, self.bandwidth, self.kernel_flops = module, peak, bandwidth, kernel_flops
        # name -> (how often it runs, kind, bytes that a chip receives, bytes of HBM, waited for). The compiler spreads
        # one asynchronous collective over several fusions, inside loops and around them, each with a copy of it on the
        # same channel: it runs as often as the outermost. Outside of fusions channels say nothing: halo exchanges share
        # one.
        self.collectives: dict[str, tuple[float, str, float, float, bool]] = {}

    def total(self, entry: str) -> Cost:
        cost = Cost()
        for name, times in self._times(entry, 1.0, {}).items():
            computation = self.module.computations[name]
            for instruction in computation.instructions.values():
                self._add(cost, instruction, computation, times)
        for times, kind, moved, in_hbm, waited in self.collectives.values():
            cost.collective_bytes += times * moved
            cost.waited_bytes += times * moved * waited
            cost.by_collective[kind] = cost.by_collective.get(kind, 0.0) + times * moved
            cost.hbm_bytes += times * in_hbm
        return cost

    def _times(self, name: str, times: float, found: dict[str, float]) -> dict[str, float]:
        """How often each computation runs, those of fusions left out. Of a condition's branches each counts."""
        found[name] = found.get(name, 0.0) + times
        computation = self.module.computations[name]
        for i in computation.instructions.values():
            if i.opcode == "while":
                trips = self.module.trips(i, name)
                self._times(i.called("body") or "", times * (1 if trips is None else trips), found)
            elif i.opcode in CALLS:
                inner = [
                    i.called(key) for key in ("to_apply", "calls", "true_computation", "false_computation")
                ]
                inner += re.findall(r"%([\w.\-]+)", _braces(i.attributes, "branch_computations="))
                for each in inner:
                    if each:
                        self._times(each, times, found)
        return found

    def _add(self, total: Cost, i: Instruction, within: Computation, times: float) -> None:
        if i.opcode in FREE or i.opcode in CALLS or i.opcode.endswith("-done"):
            return
        if i.opcode == "fusion":
            inner = self.module.computations[i.called("calls") or ""]
            flops = self._arithmetic(total, inner, times, (i, within))
            moved = self._fusion_bytes(i, within, inner)
        else:
            flops, moved = self._operation(total, i, within, times, None), _moved(i, within)
        busy = 0.0 if i.opcode in ASYNCHRONOUS else times * max(flops / self.peak, moved / self.bandwidth)
        total.flops += times * flops
        total.hbm_bytes += times * moved
        total.busy += busy
        place = re.search(r'op_name="([^"]*)"', i.attributes)
        name = place.group(1) if place else re.sub(r"[.\d]+$", "", i.name)
        before = total.by_place.get(name, (0.0, 0.0, 0.0))
        total.by_place[name] = (before[0] + busy, before[1] + times * flops, before[2] + times * moved)

    def _operation(
        self, total: Cost, i: Instruction, within: Computation, times: float, fusion: Place | None
    ) -> float:
        """FLOPs of one operation; a collective is noted. fusion: the outermost that it is in."""
        name = i.opcode.removesuffix("-start")
        if i.opcode == "convolution":
            return _convolution_flops(i, within)
        if i.opcode == "dot":
            return _dot_flops(i, within)
        if name in COLLECTIVES:
            if within.name.startswith(SCATTER):
                name = "reduce-scatter"
            channel = re.search(r"channel_id=\d+", i.attributes)
            key = channel.group() if channel and fusion else f"{within.name} {i.name}"
            moved = _ring_bytes(name, i, within, self.module.devices)
            # What lies in HBM is told by the types outside of a fusion that is nothing but this collective.
            seen, place = fusion if fusion and name == "reduce-scatter" else (i, within)
            in_hbm = _hbm(seen) + sum(_hbm(place.instructions[o]) for o in seen.operands)
            before = self.collectives.get(key)
            waited = not i.opcode.endswith("-start") and not within.name.startswith("async_collective")
            if before is not None:
                times, waited = min(times, before[0]), waited and before[4]
            self.collectives[key] = (times, name, moved, in_hbm, waited)
        elif _is(i, "tpu_custom_call"):
            shapes = [a.shape for o in i.operands for a in within.instructions[o].arrays]
            flops = self.kernel_flops(i.name, shapes)
            if flops is not None:
                return flops
            kernel = re.sub(r"[.\d]+$", "", i.name)
            total.unknown[kernel] = total.unknown.get(kernel, 0.0) + times
        return 0.0

    def _arithmetic(self, total: Cost, computation: Computation, times: float, fusion: Place) -> float:
        """FLOPs of a fusion, of those inside it too."""
        flops = 0.0
        for i in computation.instructions.values():
            if i.opcode == "fusion":
                inner = self.module.computations[i.called("calls") or ""]
                flops += self._arithmetic(total, inner, times, fusion)
            else:
                flops += self._operation(total, i, computation, times, fusion)
        return flops

    def _fusion_bytes(self, i: Instruction, within: Computation, inner: Computation) -> float:
        if _is(inner.root, "AsyncCollective") or inner.name.startswith(SCATTER):
            return 0.0  # the bytes of a collective that begins or ends here, counted with what it sends
        total = 0.0
        for number, parameter in inner.parameters().items():
            for array in within.instructions[i.operands[number]].arrays:
                if array.in_hbm:
                    total += self._read(parameter, inner, array.size)
        written = _results(inner)
        for number, array in enumerate(i.arrays):
            if array.in_hbm:
                total += _written(written[number], inner, array.size) if number < len(written) else array.size
        return total

    def _read(self, i: Instruction, within: Computation, whole: float) -> float:
        """Bytes that a fusion reads of its parameter."""
        total = 0.0
        for user in within.users.get(i.name, ()):
            first = user.operands[0] == i.name
            if user.opcode in ("dynamic-slice", "slice", "gather") and first:
                total += sum(array.size for array in user.arrays)
            elif user.opcode == "dynamic-update-slice" and first:
                continue
            elif user.opcode in COLLECTIVES or (user is within.root and user.opcode == "tuple"):
                continue  # a collective under way: counted once, where it starts
            elif user.opcode == "bitcast":
                total += self._read(user, within, whole)
            elif user.opcode == "fusion":
                inner = self.module.computations[user.called("calls") or ""]
                for number, parameter in inner.parameters().items():
                    if user.operands[number] == i.name:
                        total += self._read(parameter, inner, whole)
                        if _behind_bitcasts(inner.root, inner) is parameter:  # the same bytes by another name
                            total += self._read(user, within, whole)
            else:
                return whole
        return min(total, whole)


def _braces(text: str, key: str) -> str:
    start = text.find(key)
    return text[start : text.index("}", start)] if start >= 0 else ""


def _hbm(i: Instruction) -> float:
    return sum(array.size for array in i.arrays if array.in_hbm)


def _moved(i: Instruction, within: Computation) -> float:
    """HBM bytes of an operation outside of a fusion."""
    operands = [within.instructions[o] for o in i.operands if o in within.instructions]
    if i.opcode.removesuffix("-start") in COLLECTIVES:
        return 0.0  # counted with what it sends
    if i.opcode in ASYNCHRONOUS:
        # The type: (where it goes, where it is, ...), of a slice the other way round.
        moved = i.arrays[i.opcode == "slice-start"].size
        return moved * sum(array.in_hbm for array in i.arrays[:2])
    if _is(i, "AllocateBuffer"):
        return 0.0
    if i.opcode in ("dynamic-slice", "slice", "gather"):
        return _hbm(i) + sum(a.size for a in i.arrays) * bool(operands and operands[0].arrays[0].in_hbm)
    if i.opcode == "dynamic-update-slice":
        return _hbm(operands[1]) + operands[1].arrays[0].size * i.arrays[0].in_hbm
    return _hbm(i) + sum(_hbm(o) for o in operands)


def _results(inner: Computation) -> list[Instruction]:
    root = inner.root
    return [inner.instructions[o] for o in root.operands] if root.opcode == "tuple" else [root]


def _is(i: Instruction, target: str) -> bool:
    """A custom call of this name, or of one that begins with it."""
    return i.opcode == "custom-call" and f'custom_call_target="{target}' in i.attributes


def _behind_bitcasts(i: Instruction, within: Computation) -> Instruction:
    while i.opcode == "bitcast":
        i = within.instructions[i.operands[0]]
    return i


def _written(i: Instruction, within: Computation, whole: float) -> float:
    i = _behind_bitcasts(i, within)
    if i.opcode == "parameter" or i.opcode in COLLECTIVES:
        return 0.0  # handed on as it is, or counted where the collective starts
    if i.opcode == "dynamic-update-slice":
        return sum(array.size for array in within.instructions[i.operands[1]].arrays)
    return whole


def _group_size(i: Instruction, devices: int) -> int:
    """Chips in one group of a collective."""
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", i.attributes):
        return len(listed.group(1).split(","))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", i.attributes):
        return int(tiled.group(1))
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", i.attributes):
        sizes = {name: int(size) for name, size in re.findall(r"'(\w+)'=(\d+)", named.group(1))}
        size = 1
        for name in re.findall(r"'(\w+)'", named.group(2)):
            size *= sizes[name]
        return size
    return devices


def _ring_bytes(name: str, i: Instruction, within: Computation, devices: int) -> float:
    """Bytes that each chip receives when the collective goes around a ring."""
    n = _group_size(i, devices)
    given = sum(a.size for o in i.operands if o in within.instructions for a in within.instructions[o].arrays)
    if name == "collective-permute":
        return given
    if n <= 1:
        return 0.0
    share = (n - 1) / n
    return {"all-gather": given * (n - 1), "all-reduce": 2 * given * share}.get(name, given * share)


def _dot_flops(i: Instruction, within: Computation) -> float:
    left = within.instructions[i.operands[0]].arrays[0].shape
    found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", i.attributes)
    flops = 2.0
    for size in i.arrays[0].shape:
        flops *= size
    for axis in found.group(1).split(",") if found and found.group(1) else ():
        flops *= left[int(axis)]
    return flops


def _convolution_flops(i: Instruction, within: Computation) -> float:
    """A TPU's every product of matrices is a convolution. Taps that fall on padding or between inputs do not count."""
    labels = re.search(r"dim_labels=([0-9a-z]+)_([0-9a-z]+)->([0-9a-z]+)", i.attributes)
    assert labels
    left, right, out = labels.groups()
    inputs, kernel = (within.instructions[o].arrays[0].shape for o in i.operands[:2])
    output = i.arrays[0].shape
    window = re.search(r"window=\{([^}]*)\}", i.attributes)
    values = dict(part.split("=") for part in window.group(1).split()) if window else {}
    flops = 2.0 * output[out.index("b")] * output[out.index("f")] * kernel[right.index("i")]
    spatial = sum(label.isdigit() for label in left)

    def numbers(key: str, default: int) -> list[int]:
        return (
            [int(v.split("_")[0]) for v in values[key].split("x")] if key in values else [default] * spatial
        )

    pads, strides, taps = numbers("pad", 0), numbers("stride", 1), numbers("size", 1)
    spread_in, spread_taps = numbers("lhs_dilate", 1), numbers("rhs_dilate", 1)
    for axis in range(spatial):
        size, places = inputs[left.index(str(axis))], output[out.index(str(axis))]
        last = (size - 1) * spread_in[axis]
        valid = 0
        for place in range(places):
            start = place * strides[axis] - pads[axis]
            for tap in range(taps[axis]):
                at = start + tap * spread_taps[axis]
                valid += 0 <= at <= last and at % spread_in[axis] == 0
        flops *= valid
    return flops
