"""Several processes that train one model: starting them, and waiting for one another with a time limit.

Everything here goes through the coordination service that `jax.distributed` starts, not through the devices: it works
before the first program is compiled, and it ends in an error where a collective would hang.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from jax._src import distributed  # the service has no public handle; orbax takes this one too

from input_pipeline.errors import UserError, in_one_line

ENVIRONMENT = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
SHUTDOWN = 30  # seconds that a host at its end waits for the others
_calls = itertools.count()  # every host makes the same calls in the same order: the number names the call


def start(minutes: float = 10.0) -> None:
    """Joins the other processes; call it before anything touches a device.

    `launch/local_pod.sh` and other launchers say where by the environment variables of `ENVIRONMENT`; without them
    jax finds out by itself on TPU pods, Slurm, Open MPI and Kubernetes.
    """
    address, count, index = (os.environ.get(name) for name in ENVIRONMENT)
    given: dict[str, Any] = {}
    if address or count or index:
        if not (address and count and index):
            raise UserError(f"several hosts: set all of {', '.join(ENVIRONMENT)}, or none of them")
        try:
            given = {"num_processes": int(count), "process_id": int(index)}
        except ValueError:
            raise UserError(
                f"JAX_NUM_PROCESSES={count}, JAX_PROCESS_ID={index}: numbers are needed"
            ) from None
    try:
        jax.distributed.initialize(
            address,
            **given,
            initialization_timeout=int(minutes * 60),
            # All end at about the same time, or one ends in an error: the others then hear of it after so long.
            shutdown_timeout_seconds=SHUTDOWN,
        )
    except (ValueError, RuntimeError) as error:
        where = f" with {address}" if address else ""
        raise UserError(
            f"several hosts: could not start{where} ({in_one_line(error)}); is the first host running and reachable, "
            "and do all processes have an index of their own?"
        ) from error


def is_first() -> bool:
    """Whether this process is the one that writes logs and small files."""
    return jax.process_index() == 0


def barrier(what: str, minutes: float) -> None:
    """Waits until every host is here; after `minutes` a UserError that names those that are not."""
    gather(what, "", minutes)


def gather(what: str, value: str, minutes: float) -> list[str]:
    """The values of all hosts, by host. A barrier as well."""
    if jax.process_count() == 1:
        return [value]
    client = distributed.global_state.client
    assert client is not None, "several processes without a coordination service"
    here, count = jax.process_index(), jax.process_count()
    name = f"jaxllava/{next(_calls)}/{what}"
    limit = max(int(minutes * 60_000), 1)
    client.key_value_set(f"{name}/in/{here:05d}", value)
    try:
        if here == 0:  # one reads and tells, or all would ask for everything
            found = [client.blocking_key_value_get(f"{name}/in/{i:05d}", limit) for i in range(count)]
            client.key_value_set(f"{name}/out", json.dumps(found))
            return found
        return json.loads(client.blocking_key_value_get(f"{name}/out", limit))
    except Exception as error:
        try:
            came = {int(key.rsplit("/", 1)[1]) for key, _ in client.key_value_dir_get(f"{name}/in/")}
        except Exception:
            raise UserError(f"host {here}: the first host is gone while waiting for {what!r}") from error
        missing = sorted(set(range(count)) - came)
        late = f"hosts {missing} did not come" if missing else "the first host did not answer"
        raise UserError(
            f"host {here}: waited {minutes:g} minutes for {what!r} and {late}; look at their logs "
            "(of a training, config.barrier_minutes is the limit)"
        ) from error


def all_true(what: str, ok: bool, minutes: float) -> bool:
    """Whether it is so on every host."""
    return all(value == "1" for value in gather(what, "1" if ok else "0", minutes))


def agree(facts: Mapping[str, str], minutes: float) -> None:
    """UserError unless all hosts have the same facts; it names the hosts and what they differ in."""
    mine = json.dumps({"name": socket.gethostname(), "facts": dict(facts)})
    lines = differences([json.loads(text) for text in gather("what they are to run", mine, minutes)])
    if lines:
        raise UserError("the hosts are not about to run the same: " + "; ".join(lines))


def differences(hosts: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each fact in which [{"name", "facts"}] differ: the value of most, and who has another."""
    lines = []
    for fact in sorted({key for host in hosts for key in host["facts"]}):
        values = [str(host["facts"].get(fact, "nothing")) for host in hosts]
        common = max(dict.fromkeys(values), key=values.count)
        others = [
            f"host {i} ({hosts[i]['name']}) has {value}" for i, value in enumerate(values) if value != common
        ]
        if others:
            more = f" and {len(others) - 4} more" if len(others) > 4 else ""
            lines.append(f"{fact} is {common} on most, {', '.join(others[:4])}{more}")
    return lines
