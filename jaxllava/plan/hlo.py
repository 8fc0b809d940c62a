"""A compiled program, read from the text of its optimised HLO: computations, instructions, how often loops run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

_ARRAY = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,<=]*)\](\{[^{}]*\})?")
_LINE = re.compile(r"^\s*(ROOT )?%?([\w.\-]+) = (.*)$")
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) (?:\(.*)?\{\s*$")


@dataclass(frozen=True)
class Array:
    """One array of a type: its shape, bytes, and whether it lies in HBM."""

    shape: tuple[int, ...]
    size: float
    in_hbm: bool


@dataclass(frozen=True)
class Instruction:
    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    is_root: bool

    @cached_property
    def arrays(self) -> tuple[Array, ...]:
        return tuple(_arrays(self.type))

    def called(self, key: str) -> str | None:
        found = re.search(rf"\b{key}=%?([\w.\-]+)", self.attributes)
        return found.group(1) if found else None


@dataclass
class Computation:
    name: str
    instructions: dict[str, Instruction] = field(default_factory=dict)

    @cached_property
    def root(self) -> Instruction:
        return next(i for i in reversed(self.instructions.values()) if i.is_root)

    @cached_property
    def users(self) -> dict[str, list[Instruction]]:
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions.values():
            for operand in instruction.operands:
                found.setdefault(operand, []).append(instruction)
        return found

    def parameters(self) -> dict[int, Instruction]:
        """Number -> parameter."""
        return {int(i.operands[0]): i for i in self.instructions.values() if i.opcode == "parameter"}


@dataclass(frozen=True)
class Module:
    """A program as `compiled.as_text()` prints it."""

    computations: dict[str, Computation]
    entry: str
    devices: int

    @classmethod
    def parse(cls, text: str) -> Module:
        computations: dict[str, Computation] = {}
        entry, current = "", None
        for line in text.splitlines():
            if current is None:
                head = _HEAD.match(line)
                if head and not line.startswith("HloModule"):
                    current = computations[head.group(2)] = Computation(head.group(2))
                    entry = head.group(2) if head.group(1) else entry
            elif line.rstrip() == "}":
                current = None
            elif found := _LINE.match(line):
                instruction = _instruction(*found.groups())
                current.instructions[instruction.name] = instruction
        partitions = re.search(r"num_partitions=(\d+)", text)
        return cls(computations, entry, int(partitions.group(1)) if partitions else 1)

    def open_loops(self) -> list[str]:
        """The bodies of the entry's loops that run until something happens, such as a decoder's."""
        return [
            body
            for loop in self.computations[self.entry].instructions.values()
            if loop.opcode == "while"
            and (body := loop.called("body"))
            and self.trips(loop, self.entry) is None
        ]

    def trips(self, loop: Instruction, within: str) -> int | None:
        """How often a loop of the computation `within` runs."""
        body, condition = loop.called("body"), loop.called("condition")
        assert body and condition
        parts = self.computations
        return _trip_count(loop, parts[within], parts[condition], parts[body])


def _trip_count(
    loop: Instruction, within: Computation, condition: Computation, body: Computation
) -> int | None:
    """How often a loop runs that counts up to a constant, as every scan does; None where it is no such loop."""
    if condition.root.opcode != "compare":
        return None
    limit, counter = None, None
    for operand in condition.root.operands:
        given = condition.instructions[operand]
        if given.opcode == "constant":
            limit = _integer(given)
        elif given.opcode == "get-tuple-element":
            counter = _index(given)
    if limit is None or counter is None:
        return None
    start, step = 0, 1
    given = within.instructions.get(within.instructions[loop.operands[0]].operands[counter])
    while given is not None and given.opcode == "copy":
        given = within.instructions.get(given.operands[0])
    if given is not None and given.opcode == "constant":
        start = _integer(given) or 0
    moved = body.instructions[body.root.operands[counter]]
    if moved.opcode == "add":
        added = [body.instructions[o] for o in moved.operands]
        step = next((_integer(a) for a in added if a.opcode == "constant"), 1) or 1
    if "direction=LE" in condition.root.attributes:
        limit += 1
    return max(-(-(limit - start) // step), 0)


def _integer(constant: Instruction) -> int | None:
    found = re.match(r"-?\d+$", constant.operands[0])
    return int(found.group()) if found else None


def _index(element: Instruction) -> int:
    found = re.search(r"index=(\d+)", element.attributes)
    assert found
    return int(found.group(1))


def _instruction(root: str | None, name: str, rest: str) -> Instruction:
    end = _balanced(rest, 0) if rest.startswith("(") else rest.index(" ")
    type_, rest = rest[:end], rest[end:].strip()
    opcode, _, rest = rest.partition("(")
    end = _balanced("(" + rest, 0) - 1
    inside, attributes = rest[: end - 1], rest[end:]
    if opcode in ("constant", "parameter"):
        operands = (inside,)
    else:
        operands = tuple(re.findall(r"%([\w.\-]+)", inside))
    return Instruction(name, type_, opcode, operands, attributes, bool(root))


def _balanced(text: str, start: int) -> int:
    """The place behind the bracket that closes the one at `start`."""
    depth = 0
    for place in range(start, len(text)):
        if text[place] == "(":
            depth += 1
        elif text[place] == ")":
            depth -= 1
            if not depth:
                return place + 1
    return len(text)


def _arrays(type_: str) -> Iterator[Array]:
    for dtype, dims, layout in _ARRAY.findall(type_):
        shape = tuple(int(re.sub(r"\D", "", d)) for d in dims.split(",") if d)
        bits = re.match(r"[a-z]+(\d+)", dtype)  # of f8e4m3fn the 8; pred is a byte
        width = int(bits.group(1)) / 8 if bits else float(dtype == "pred")
        count = 1
        for size in shape:
            count *= size
        yield Array(shape, count * width, "S(" not in layout or "S(0)" in layout)
