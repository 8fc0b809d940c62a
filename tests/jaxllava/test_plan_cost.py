"""Costs read off HLO text, against values worked by hand."""

from __future__ import annotations

import pytest

from jaxllava.plan import cost as cost_lib
from jaxllava.plan import hlo
from jaxllava.plan.hlo import Module

PEAK, BANDWIDTH = 1e6, 1e3


def cost(text: str, entry: str | None = None, kernel_flops=lambda name, shapes: None):
    return cost_lib.of(Module.parse(text), PEAK, BANDWIDTH, kernel_flops, entry)


# Three layers of x @ w[layer], written into the stack that the loop carries.
LOOP = """
HloModule jit_f, num_partitions=4

%product (param_0: f32[3,8,8], param_1: f32[4,8], param_2: s32[]) -> f32[4,8] {
  %param_1 = f32[4,8]{1,0} parameter(1)
  %param_0 = f32[3,8,8]{2,1,0} parameter(0)
  %param_2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %slice = f32[1,8,8]{2,1,0} dynamic-slice(%param_0, %param_2, %zero, %zero), dynamic_slice_sizes={1,8,8}
  %kernel = f32[8,8]{1,0} bitcast(%slice)
  ROOT %conv = f32[4,8]{1,0} convolution(%param_1, %kernel), dim_labels=bf_io->bf, metadata={op_name="jit(f)/mlp"}
}

%keep (param_0.1: f32[3,4,8], param_1.1: f32[4,8], param_2.1: s32[]) -> f32[3,4,8] {
  %param_0.1 = f32[3,4,8]{2,1,0} parameter(0)
  %param_1.1 = f32[4,8]{1,0} parameter(1)
  %row = f32[1,4,8]{2,1,0} bitcast(%param_1.1)
  %param_2.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %written = f32[3,4,8]{2,1,0} dynamic-update-slice(%param_0.1, %row, %param_2.1, %zero.1, %zero.1)
}

%body (state: (s32[], f32[4,8], f32[3,8,8], f32[3,4,8])) -> (s32[], f32[4,8], f32[3,8,8], f32[3,4,8]) {
  %state = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}, f32[3,4,8]{2,1,0}) parameter(0)
  %step = s32[] get-tuple-element(%state), index=0
  %x = f32[4,8]{1,0:S(1)} get-tuple-element(%state), index=1
  %w = f32[3,8,8]{2,1,0} get-tuple-element(%state), index=2
  %kept = f32[3,4,8]{2,1,0} get-tuple-element(%state), index=3
  %y = f32[4,8]{1,0:S(1)} fusion(%w, %x, %step), kind=kOutput, calls=%product, metadata={op_name="jit(f)/mlp"}
  %all = f32[3,4,8]{2,1,0} fusion(%kept, %y, %step), kind=kLoop, calls=%keep
  %one = s32[] constant(1)
  %next = s32[] add(%step, %one)
  ROOT %out = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}, f32[3,4,8]{2,1,0}) tuple(%next, %y, %w, %all)
}

%condition (state.1: (s32[], f32[4,8], f32[3,8,8], f32[3,4,8])) -> pred[] {
  %state.1 = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}, f32[3,4,8]{2,1,0}) parameter(0)
  %step.1 = s32[] get-tuple-element(%state.1), index=0
  %end = s32[] constant(3)
  ROOT %less = pred[] compare(%step.1, %end), direction=LT
}

ENTRY %main (a: f32[4,8], b: f32[3,8,8]) -> f32[3,4,8] {
  %a = f32[4,8]{1,0} parameter(0)
  %b = f32[3,8,8]{2,1,0} parameter(1)
  %start = s32[] constant(0)
  %fetch = (f32[4,8]{1,0:S(1)}, f32[4,8]{1,0}, u32[]) copy-start(%a)
  %here = f32[4,8]{1,0:S(1)} copy-done(%fetch)
  %room = f32[3,4,8]{2,1,0} broadcast(%start), dimensions={}
  %first = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}, f32[3,4,8]{2,1,0}) tuple(%start, %here, %b, %room)
  %loop = (s32[], f32[4,8]{1,0}, f32[3,8,8]{2,1,0}, f32[3,4,8]{2,1,0}) while(%first), condition=%condition, body=%body
  ROOT %result = f32[3,4,8]{2,1,0} get-tuple-element(%loop), index=3
}
"""


def test_a_loop_counts_as_often_as_it_runs_and_moves_slices():
    found = cost(LOOP)
    assert found.flops == 3 * 2 * 4 * 8 * 8
    layer = 8 * 8 * 4 + 4 + 4 * 8 * 4 + 4  # the layer's kernel, its row written, the counter read twice
    scalars = 3 * (4 + 4 + 4)  # the counter added to
    assert found.hbm_bytes == 3 * layer + scalars + 3 * 4 * 8 * 4 + 4 + 4 * 8 * 4
    # The copy into the chip's own memory goes on beside the rest.
    assert found.busy == pytest.approx((found.hbm_bytes - 4 * 8 * 4) / BANDWIDTH)
    assert found.by_place["jit(f)/mlp"][1] == found.flops


@pytest.mark.parametrize(("start", "step", "end", "times"), [(0, 2, 3, 2), (1, 1, 3, 2), (0, 1, 7, 7)])
def test_how_often_a_loop_runs(start, step, end, times):
    text = LOOP.replace("%start = s32[] constant(0)", f"%start = s32[] constant({start})")
    text = text.replace("constant(3)", f"constant({end})").replace(
        "%one = s32[] constant(1)", f"%one = s32[] constant({step})"
    )
    assert cost(text).flops == times * 2 * 4 * 8 * 8
    assert not Module.parse(text).open_loops()


def test_a_loop_whose_end_only_the_run_knows_counts_once():
    text = LOOP.replace("%end = s32[] constant(3)", "%end = s32[] get-tuple-element(%state.1), index=0")
    assert cost(text).flops == 2 * 4 * 8 * 8
    assert Module.parse(text).open_loops() == ["body"]
    assert cost(text, "body").flops == 2 * 4 * 8 * 8


# An all-gather that the compiler spread over a fusion before the loop and one in it; a reduction that it left whole.
SENT = """
HloModule jit_f, num_partitions=8

%async_collective_fusion.1 (p: bf16[4,16]) -> bf16[32,16] {
  %p = bf16[4,16]{1,0} parameter(0)
  ROOT %gather.1 = bf16[32,16]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}

%async_collective_fusion.2 (p.1: bf16[4,16], q.1: bf16[32,16]) -> bf16[32,16] {
  %p.1 = bf16[4,16]{1,0} parameter(0)
  %q.1 = bf16[32,16]{1,0} parameter(1)
  ROOT %gather.2 = bf16[32,16]{1,0} all-gather(%p.1), channel_id=7, replica_groups=[1,8]<=[8], dimensions={0}
}

%all-reduce-scatter (r: bf16[32,16]) -> bf16[4,16] {
  %r = bf16[32,16]{1,0} parameter(0)
  %sum = bf16[32,16]{1,0} all-reduce(%r), channel_id=9, replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  %at = s32[] constant(0)
  ROOT %own = bf16[4,16]{1,0} dynamic-slice(%sum, %at, %at), dynamic_slice_sizes={4,16}
}

%body (state: (s32[], bf16[4,16], bf16[32,16])) -> (s32[], bf16[4,16], bf16[32,16]) {
  %state = (s32[], bf16[4,16]{1,0}, bf16[32,16]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%state), index=0
  %own = bf16[4,16]{1,0} get-tuple-element(%state), index=1
  %all = bf16[32,16]{1,0} get-tuple-element(%state), index=2
  %gathered = bf16[32,16]{1,0} fusion(%own, %all), kind=kLoop, calls=%async_collective_fusion.2
  %one = s32[] constant(1)
  %m = s32[] add(%n, %one)
  ROOT %out = (s32[], bf16[4,16]{1,0}, bf16[32,16]{1,0}) tuple(%m, %own, %gathered)
}

%condition (state.1: (s32[], bf16[4,16], bf16[32,16])) -> pred[] {
  %state.1 = (s32[], bf16[4,16]{1,0}, bf16[32,16]{1,0}) parameter(0)
  %n.1 = s32[] get-tuple-element(%state.1), index=0
  %end = s32[] constant(5)
  ROOT %less = pred[] compare(%n.1, %end), direction=LT
}

ENTRY %main (a: bf16[4,16]) -> bf16[4,16] {
  %a = bf16[4,16]{1,0} parameter(0)
  %zero = s32[] constant(0)
  %begun = bf16[32,16]{1,0} fusion(%a), kind=kLoop, calls=%async_collective_fusion.1
  %first = (s32[], bf16[4,16]{1,0}, bf16[32,16]{1,0}) tuple(%zero, %a, %begun)
  %loop = (s32[], bf16[4,16]{1,0}, bf16[32,16]{1,0}) while(%first), condition=%condition, body=%body
  %whole = bf16[32,16]{1,0} get-tuple-element(%loop), index=2
  ROOT %mine = bf16[4,16]{1,0} fusion(%whole), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_a_collective_is_one_however_it_is_spread_and_a_scatter_costs_half_a_reduction():
    found = cost(SENT)
    gathered = 7 * 4 * 16 * 2  # of each of seven others
    scattered = 32 * 16 * 2 * 3 / 4  # groups of four
    assert found.by_collective == {"all-gather": gathered, "reduce-scatter": scattered}
    assert found.collective_bytes == gathered + scattered
    assert found.waited_bytes == scattered


def product(window: str, labels: str, left: str, right: str, out: str) -> float:
    return cost(
        f"""
HloModule m
ENTRY %main (a: f32[{left}], b: f32[{right}]) -> f32[{out}] {{
  %a = f32[{left}]{{0}} parameter(0)
  %b = f32[{right}]{{0}} parameter(1)
  ROOT %c = f32[{out}]{{0}} convolution(%a, %b), {window}dim_labels={labels}
}}
"""
    ).flops


def test_taps_on_padding_and_between_inputs_do_not_count():
    assert product("", "bf_io->bf", "5,7", "7,3", "5,3") == 2 * 5 * 7 * 3
    # Heads as a spatial dimension, reversed and padded: each output position meets one input.
    one = product("window={size=4 pad=3_3 rhs_reversal=1}, ", "b0f_0io->b0f", "5,1,7", "4,7,3", "5,4,3")
    assert one == 2 * 5 * 7 * 3 * 4
    # A batch as a spatial dimension: stride 3 over inputs that lie 4 apart.
    own = product("window={size=4 stride=3 lhs_dilate=4}, ", "0bf_0io->0bf", "4,5,7", "4,7,3", "4,5,3")
    assert own == 2 * 4 * 5 * 7 * 3
    assert (
        product("window={size=2x2}, ", "b01f_01io->b01f", "1,3,3,2", "2,2,2,5", "1,2,2,5")
        == 2 * 4 * 5 * 2 * 4
    )


def test_a_kernel_counts_what_it_is_said_to_or_is_named():
    text = """
HloModule m
ENTRY %main (a: bf16[2,128,128]) -> bf16[2,128,128] {
  %a = bf16[2,128,128]{2,1,0} parameter(0)
  ROOT %splash_fwd.3 = bf16[2,128,128]{2,1,0} custom-call(%a), custom_call_target="tpu_custom_call", about={{
"block_q": 512
}}
}
"""
    assert cost(text).unknown == {"splash_fwd": 1.0}
    found = cost(text, kernel_flops=lambda name, shapes: float(shapes[0][1]))
    assert (found.flops, found.unknown) == (128.0, {})


HALO = """
HloModule m, num_partitions=4

ENTRY %main (a: bf16[4,16], b: bf16[8,16]) -> bf16[4,16] {
  %a = bf16[4,16]{1,0} parameter(0)
  %b = bf16[8,16]{1,0} parameter(1)
  %x = bf16[8,16]{1,0} collective-permute(%b), channel_id=1, source_target_pairs={{0,1},{1,2}}
  ROOT %y = bf16[4,16]{1,0} collective-permute(%a), channel_id=1, source_target_pairs={{1,0},{2,1}}
}
"""

SLICED = """
HloModule m

ENTRY %main (a: bf16[32,64]) -> bf16[8,64] {
  %a = bf16[32,64]{1,0} parameter(0)
  %room = bf16[512,512]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %s = ((bf16[32,64]{1,0}), bf16[8,64]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:8], [0:64]}
  ROOT %d = bf16[8,64]{1,0:S(1)} slice-done(%s)
}
"""

# libtpu hands a kernel to a product through a fusion that only calls it by another layout.
RENAMED = """
HloModule m

%bitcast_fusion (p: bf16[64,32]) -> bf16[64,32] {
  %p = bf16[64,32]{1,0} parameter(0)
  ROOT %b = bf16[64,32]{0,1} bitcast(%p)
}

%product (x: bf16[4,64], w: bf16[64,32]) -> f32[4,32] {
  %x = bf16[4,64]{1,0} parameter(0)
  %w = bf16[64,32]{1,0} parameter(1)
  %f = bf16[64,32]{0,1} fusion(%w), kind=kLoop, calls=%bitcast_fusion
  ROOT %c = f32[4,32]{1,0} convolution(%x, %f), dim_labels=bf_io->bf
}

ENTRY %main (x: bf16[4,64], w: bf16[64,32]) -> f32[4,32] {
  %x = bf16[4,64]{1,0:S(1)} parameter(0)
  %w = bf16[64,32]{1,0} parameter(1)
  ROOT %o = f32[4,32]{1,0:S(1)} fusion(%x, %w), kind=kOutput, calls=%product
}
"""

# A gather that begins in one fusion and ends in another, and a reduce-scatter as libtpu spells it, in its own memory.
SPREAD = """
HloModule m, num_partitions=4

%async_collective_fusion (p: bf16[4,16]) -> (bf16[4,16], bf16[16,16]) {
  %p = bf16[4,16]{1,0} parameter(0)
  %g = bf16[16,16]{1,0} all-gather(%p), channel_id=7, replica_groups=[1,4]<=[4], dimensions={0}
  ROOT %start = (bf16[4,16]{1,0}, bf16[16,16]{1,0}) custom-call(%p, %g), custom_call_target="AsyncCollectiveStart"
}

%async_collective_fusion.1 (q: bf16[16,16]) -> bf16[16,16] {
  %q = bf16[16,16]{1,0} parameter(0)
  ROOT %done = bf16[16,16]{1,0} custom-call(%q), custom_call_target="AsyncCollectiveDone"
}

%all-reduce-scatter (r: bf16[16,16]) -> bf16[4,16] {
  %r = bf16[16,16]{1,0} parameter(0)
  %all = bf16[16,16]{1,0} all-reduce(%r), channel_id=8, replica_groups=[1,4]<=[4], to_apply=%sum
  %zero = s32[] constant(0)
  ROOT %own = bf16[4,16]{1,0} dynamic-slice(%all, %zero, %zero), dynamic_slice_sizes={4,16}
}

ENTRY %main (a: bf16[4,16]) -> bf16[4,16] {
  %a = bf16[4,16]{1,0} parameter(0)
  %s = (bf16[4,16]{1,0}, bf16[16,16]{1,0}) fusion(%a), kind=kCustom, calls=%async_collective_fusion
  %e = bf16[16,16]{1,0} get-tuple-element(%s), index=1
  %d = bf16[16,16]{1,0:S(1)} fusion(%e), kind=kCustom, calls=%async_collective_fusion.1
  ROOT %o = bf16[4,16]{1,0:S(1)} fusion(%d), kind=kCustom, calls=%all-reduce-scatter
}
"""


def test_exchanges_that_share_a_channel_are_several():
    found = cost(HALO)
    assert found.collective_bytes == found.waited_bytes == (4 + 8) * 16 * 2


def test_a_slice_that_is_fetched_costs_the_slice_and_room_costs_nothing():
    found = cost(SLICED)
    assert found.hbm_bytes == 8 * 64 * 2 and found.busy == 0


def test_a_kernel_by_another_name_is_read_once():
    found = cost(RENAMED)
    assert found.hbm_bytes == 64 * 32 * 2
    assert found.flops == 2 * 4 * 64 * 32


def test_a_collective_spread_over_fusions_keeps_no_operation_busy():
    found = cost(SPREAD)
    assert found.busy == 0
    assert found.by_collective == {"all-gather": 3 * 4 * 16 * 2, "reduce-scatter": 16 * 16 * 2 * 3 / 4}
    assert found.waited_bytes == found.by_collective["reduce-scatter"]
    assert found.hbm_bytes == (4 + 16) * 16 * 2  # the gather's; the reduction stays on the chip


@pytest.mark.parametrize(
    ("dtype", "width"),
    [
        ("pred", 1),
        ("bf16", 2),
        ("s4", 0.5),
        ("f8e4m3b11fnuz", 1),
        ("f4e2m1fn", 0.5),
        ("c64", 8),
        ("token", 0),
    ],
)
def test_widths(dtype, width):
    (array,) = hlo._arrays(f"{dtype}[3,8]{{1,0}}")
    assert array.size == 24 * width


@pytest.mark.parametrize(("direction", "times"), [("LT", 3), ("LE", 4)])
def test_a_loop_up_to_and_with_its_end(direction, times):
    text = LOOP.replace("direction=LT", f"direction={direction}")
    assert cost(text).flops == times * 2 * 4 * 8 * 8
