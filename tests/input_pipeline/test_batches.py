"""The batch at step k is the same for any number of hosts, threads, processes and restarts."""

from __future__ import annotations

import numpy as np
import pytest

from input_pipeline.batches import HostBatches, Stream, to_device
from input_pipeline.errors import UserError

BATCH, SEED = 8, 3


class Rows:
    """Row i holds i and some noise of its own; 21 of them, so that passes end inside of batches."""

    def __init__(self, ordered: bool = False, bad: int = -1):
        self.ordered, self.bad = ordered, bad

    def __len__(self) -> int:
        return 21

    def __getitem__(self, index):
        if index == self.bad:
            raise UserError(f"record {index} cannot be read")
        noise = np.random.default_rng(index).integers(0, 255, (2, 3), np.uint8)
        return {"tokens": np.full(4, index, np.int32), "images": noise}


def taken(count: int, rows=None, **options) -> list[dict[str, np.ndarray]]:
    with Stream(rows or Rows(), global_batch=BATCH, seed=SEED, **options) as stream:
        return [next(stream) for _ in range(count)]


def assert_same(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(scope="module")
def alone():
    return taken(8)


def test_each_pass_has_every_row_once_in_an_order_of_its_own(alone):
    numbers = np.concatenate([batch["tokens"][:, 0] for batch in alone])
    first, second = numbers[:21], numbers[21:42]
    assert sorted(first) == sorted(second) == list(range(21))
    assert list(first) != list(range(21)) and list(first) != list(second)


def test_rows_that_have_an_order_keep_it():
    numbers = np.concatenate([batch["tokens"][:, 0] for batch in taken(3, Rows(ordered=True))])
    assert list(numbers) == [i % 21 for i in range(24)]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_hosts_share_one_global_batch(alone, hosts):
    share = BATCH // hosts
    parts = [taken(4, positions=np.arange(host * share, (host + 1) * share)) for host in range(hosts)]
    joined = [
        {name: np.concatenate([part[step][name] for part in parts]) for name in parts[0][step]}
        for step in range(4)
    ]
    assert_same(joined, alone[:4])


def test_a_host_may_hold_any_rows(alone):
    positions = np.asarray([1, 2, 7])
    found = taken(3, positions=positions)
    assert_same(found, [{name: value[positions] for name, value in batch.items()} for batch in alone[:3]])


@pytest.mark.parametrize("start", [1, 3, 7])
def test_it_goes_on_from_any_step(alone, start):
    assert_same(taken(8 - start, start=start), alone[start:])


@pytest.mark.parametrize(("workers", "start"), [(2, 3), (4, 0)])
def test_processes_that_read_ahead_change_nothing(alone, workers, start):
    assert_same(taken(5, workers=workers, start=start), alone[start : start + 5])


@pytest.mark.parametrize("workers", [0, 2])
def test_a_row_that_cannot_be_read_is_an_error_and_no_hang(workers):
    with pytest.raises(Exception, match="record 5 cannot be read"):
        taken(3, Rows(bad=5), workers=workers)


def test_orders_are_forgotten_when_they_are_over():
    source = HostBatches(Rows(), BATCH, np.arange(BATCH), SEED)
    for step in range(40):
        source[step]
    assert len(source._orders) <= 2


def test_global_arrays_hold_the_batch(alone):
    import jax
    from jax.sharding import PartitionSpec

    from jaxllava import sharding

    mesh = sharding.make_mesh((2, 4, 1))
    cut = sharding.batch_sharding(mesh)
    assert cut.spec == PartitionSpec(("data", "fsdp"))
    assert list(sharding.rows_of_host(cut, BATCH)) == list(range(BATCH))
    for positions in (None, np.arange(BATCH)):
        for name, array in to_device(alone[0], cut, BATCH, positions).items():
            np.testing.assert_array_equal(jax.device_get(array), alone[0][name])
            assert array.sharding == cut
