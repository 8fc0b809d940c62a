"""What hosts tell one another. Real processes: `test_local_pod.py`."""

from __future__ import annotations

import pytest

from input_pipeline.errors import UserError
from jaxllava import hosts


def test_alone_there_is_nobody_to_wait_for():
    assert hosts.gather("x", "value", 0.01) == ["value"]
    assert hosts.all_true("x", True, 0.01) and not hosts.all_true("x", False, 0.01)
    hosts.agree({"config": "a"}, 0.01)
    hosts.barrier("x", 0.01)


def test_the_hosts_that_differ_are_named_with_what_they_have():
    same = {"config.lr": "1", "data behavior_train": "aa", "code": "c"}
    found = hosts.differences(
        [
            {"name": "w0", "facts": same},
            {"name": "w1", "facts": same | {"data behavior_train": "bb"}},
            {"name": "w2", "facts": {key: value for key, value in same.items() if key != "code"}},
        ]
    )
    assert found == [
        "code is c on most, host 2 (w2) has nothing",
        "data behavior_train is aa on most, host 1 (w1) has bb",
    ]
    assert hosts.differences([{"name": "w", "facts": same}] * 3) == []


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}, "set all of JAX_COORDINATOR_ADDRESS"),
        (
            dict(zip(hosts.ENVIRONMENT, ("127.0.0.1:1", "two", "0"), strict=True)),
            "JAX_NUM_PROCESSES=two, JAX_PROCESS_ID=0: numbers are needed",
        ),
    ],
)
def test_a_start_that_cannot_work_is_one_line(monkeypatch, variables, message):
    for name in hosts.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        hosts.start()
