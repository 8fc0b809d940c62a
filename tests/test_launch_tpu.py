"""launch/tpu.sh against a cloud of one folder (`fake_cloud`): what it asks for, refuses, and brings to the workers."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shutil
import signal
import subprocess
import threading
import time

import pytest

from tests.fake_cloud import SETTINGS, Cloud

BARE = ("--config", "configs/train.py:stage=behavior", "--workdir", "gs://shed/runs/one")
RUN = (*BARE, "--config.data=gs://shed/data/records")
WORKER = "bash jaxllava/launch/tpu_worker.sh"


@pytest.fixture
def cloud(tmp_path):
    made = Cloud(tmp_path)
    yield made
    made.end()


@pytest.fixture
def ready(cloud) -> Cloud:
    """Created and set up."""
    cloud.ready()
    return cloud


def refused(done: subprocess.CompletedProcess[str], message: str) -> None:
    assert done.returncode == 1
    assert message in done.stderr, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("tpu.sh: ") and message in last


def until(holds) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def run(cloud: Cloud, *words: str) -> None:
    """Starts a training and waits until every worker is at it."""
    before = len(cloud.trained(cloud.homes()[0]))
    cloud.ok("train", *RUN, *words)
    cloud.wait("trained.jsonl", "\n", before + 1)


# -- settings ---------------------------------------------------------------------------------------------------------


def test_nothing_is_done_half_configured(cloud):
    (cloud.root / "launch" / "tpu.env").unlink()
    for command in ("create", "setup", "train", "status", "logs", "stop", "resume", "watch", "delete"):
        done = cloud.run(command)
        assert done.returncode == 1
        *missing, remedy = done.stderr.splitlines()
        assert [line.split()[1] for line in missing] == [
            *("PROJECT", "ZONE", "ACCELERATOR", "RUNTIME", "PROVISIONING", "NAME", "BUCKET")
        ]
        assert "fill in launch/tpu.env" in remedy and "nothing was done" in remedy
    assert cloud.calls() == [] and not (cloud.root / ".tpu").exists()


def test_the_example_has_every_setting_and_fills_in_none(cloud):
    text = (cloud.root / "launch" / "tpu.example.env").read_text()
    (cloud.root / "launch" / "tpu.env").write_text(text)
    assert cloud.run("create").stderr.count("is not set") == len(SETTINGS)
    script = (cloud.root / "launch" / "tpu.sh").read_text()
    named = re.findall(r'^(?:REQUIRED|OPTIONAL)="(.*)"', script, re.M)
    assert set(" ".join(named).split()) == set(re.findall(r"^#?([A-Z_]+)=", text, re.M))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ZONE": "us-west4"}, "ZONE=us-west4 is not a zone"),
        ({"NAME": "My_Pod"}, "NAME=My_Pod is not a name in lower case"),
        ({"ACCELERATOR": "v5e"}, "ACCELERATOR=v5e is not a type and size"),
        ({"PROVISIONING": "cheap"}, "PROVISIONING=cheap is not spot, on-demand or reserved"),
        ({"SLICES": "two"}, "SLICES=two is not a number"),
        ({"BUCKET": "gs://shed/folder"}, "BUCKET=shed/folder is not a bucket's name"),
        ({"SLICES": "99999999999999999999"}, "SLICES=99999999999999999999 is not a number"),
        ({"WAIT_MINUTES": "9999999"}, "WAIT_MINUTES=9999999 is not a number"),
        ({"DATA_DIR": "~/data"}, "DATA_DIR=~/data is not a folder of the workers, from / on"),
        ({"PROJEKT": "x"}, "'PROJEKT=x' is not KEY=VALUE of a setting"),
    ],
)
def test_a_wrong_setting_is_one_clear_line(cloud, change, message):
    cloud.settings(**change)
    done = cloud.run("create")
    assert done.returncode == 1 and message in done.stderr
    assert cloud.calls() == []


def test_flags_win_over_the_file(cloud, tmp_path):
    other = tmp_path / "other.env"
    other.write_text("\n".join(f"{key}={value}" for key, value in SETTINGS.items()) + "\nSLICES=2\r\n")
    cloud.settings(ZONE="")
    cloud.ok(
        "create", "--settings", str(other), "--name=mine", "--zone", "us-west4-b", "--bucket", "gs://shed/"
    )
    (call,) = cloud.calls("queued-resources", "create")
    assert call[4] == "mine" and "--zone=us-west4-b" in call and "--node-count=2" in call
    assert "--node-prefix=mine" in call and not [word for word in call if word.startswith("--node-id")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give a command"),
        (("fly",), "'fly' is not a command"),
        (("create", "--yes"), "create does not know '--yes'"),
        (("logs", "--worker", "x"), "--worker 'x': a number is needed"),
        (("create", "--zone"), "--zone needs a value"),
        (("watch", "--resumes", "09"), "--resumes '09': a number is needed"),
        (("logs", "--slice=99999999999999999999"), "--slice '99999999999999999999': a number is needed"),
    ],
)
def test_a_wrong_call_is_one_line(cloud, words, message):
    done = cloud.run(*words)
    refused(done, message)
    assert done.stderr.count("\n") == 1 and cloud.calls() == []


def test_without_gcloud_it_says_what_to_install(cloud):
    (cloud.bin / "gcloud").unlink()
    tools = cloud.folder / "few"
    tools.mkdir()
    for name in ("bash", "dirname", "grep", "sed", "tr", "cat", "env"):
        (tools / name).symlink_to(f"/usr/bin/{name}")
    refused(cloud.run("create", PATH=str(tools)), "gcloud is not on PATH; install the Google Cloud CLI")


# -- create -----------------------------------------------------------------------------------------------------------


def test_create_asks_labels_and_waits(cloud):
    cloud.play(states=["ACCEPTED", "WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"])
    done = cloud.ok("create")
    (call,) = cloud.calls("queued-resources", "create")
    token = (cloud.state / "token").read_text().strip()
    assert len(token) == 16
    assert call[4:] == [
        "pod",
        "--accelerator-type=v5litepod-16",
        "--runtime-version=v2-alpha-tpuv5-lite",
        "--node-id=pod",
        "--spot",
        f"--labels=jaxllava_launch={token}",
        "--valid-until-duration=PT120M",
        "--async",
        "--project=some-project",
        "--zone=us-west4-a",
    ]
    assert "pod is WAITING_FOR_RESOURCES" in done.stderr and "costs from now on" in done.stderr


@pytest.mark.parametrize(
    ("change", "there", "absent"),
    [
        ({"PROVISIONING": "on-demand"}, [], ["--spot", "--reserved"]),
        ({"PROVISIONING": "reserved"}, ["--reserved"], ["--spot"]),
        ({"WAIT_MINUTES": "9", "INTERNAL_IPS": "yes"}, ["--valid-until-duration=PT9M", "--internal-ips"], []),
        ({"NETWORK": "n", "SERVICE_ACCOUNT": "a@b"}, ["--network=n", "--service-account=a@b"], []),
    ],
)
def test_settings_reach_the_request(cloud, change, there, absent):
    cloud.settings(**change)
    cloud.ok("create")
    (call,) = cloud.calls("queued-resources", "create")
    assert set(there) <= set(call) and not set(absent) & set(call)


def test_create_given_twice_goes_on(cloud):
    cloud.play(states=["WAITING_FOR_RESOURCES"])
    done = cloud.run("create", JAXLLAVA_TPU_MINUTE="0")
    refused(done, "still WAITING_FOR_RESOURCES after 120 minutes")
    refused(done, "pod costs from ACTIVE on, until launch/tpu.sh delete")
    token = (cloud.state / "token").read_text()
    cloud.play(states=["WAITING_FOR_RESOURCES", "ACTIVE"])
    assert "has been asked for already" in cloud.ok("create").stderr
    assert len(cloud.calls("queued-resources", "create")) == 1
    assert (cloud.state / "token").read_text() == token


def test_a_request_that_fails_says_why(cloud):
    cloud.play(states=["ACCEPTED", "FAILED"], error="no more capacity | in the zone")
    refused(cloud.run("create"), "pod is FAILED (no more capacity | in the zone)")
    refused(cloud.run("create"), "launch/tpu.sh resume makes it again")
    cloud.play(states=["ACCEPTED", "FAILED"], error="no capacity\nin the zone")
    (cloud.folder / "request-pod.json").unlink()
    refused(cloud.run("create"), "pod is FAILED (no capacity in the zone); launch/tpu.sh resume asks again")
    cloud.play(no_quota=1, states=["ACTIVE"])
    cloud.settings(NAME="other")
    refused(cloud.run("create"), "could not be asked for")


def test_create_does_not_wait_for_a_deletion(cloud):
    cloud.ok("create")
    cloud.play(states=["DELETING"])
    refused(cloud.run("create"), "pod is DELETING; try again in some minutes")


def test_one_command_at_a_time_changes_a_tpu(ready):
    (ready.state / "lock").mkdir()
    for words in (("create",), ("setup",), ("train", *RUN), ("resume",), ("stop",), ("delete", "--yes")):
        refused(ready.run(*words), "another tpu.sh is at work on pod")
    assert ready.calls() == []
    ready.ok("status")
    (ready.state / "lock").rmdir()
    ready.ok("stop")
    refused(ready.run("resume"), "no run was started")
    assert not (ready.state / "lock").exists()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_keeps_nobody_out(cloud, sent):
    cloud.play(states=["WAITING_FOR_RESOURCES"])
    with cloud.begun("create") as command:
        until(lambda: cloud.calls("queued-resources", "create"))
        os.killpg(command.pid, sent)
        assert command.wait(30) != 0
    assert not (cloud.state / "lock").exists()


@pytest.mark.parametrize("words", [("create",), ("watch",)])
def test_an_interrupt_that_gcloud_handles_ends_the_command_too(cloud, words):
    cloud.ready()
    (cloud.state / "train").write_text("--workdir gs://shed/x\n")
    cloud.play(catches=["describe"])
    with cloud.begun(*words) as command:
        until(lambda: (cloud.folder / "catching").exists())
        os.killpg(command.pid, signal.SIGINT)
        assert command.wait(30) == 130
    assert not (cloud.state / "lock").exists()


def test_a_name_that_somebody_else_has_is_left_alone(cloud):
    cloud.ok("create")
    (cloud.state / "token").write_text("another\n")
    for command in (("create",), ("setup",), ("delete", "--yes"), ("train", *RUN)):
        refused(cloud.run(*command), "was not made from this checkout")
    (cloud.state / "token").unlink()
    cloud.play(states=["SUSPENDED"])
    (cloud.state / "train").write_text("--workdir gs://shed/x\n")
    for command in ("resume", "create"):
        refused(cloud.run(command), "was not made from this checkout")
    refused(cloud.run("watch"), "was not made from this checkout")
    cloud.play(states=["ACTIVE"])
    refused(cloud.run("watch"), "was not made from this checkout")
    assert cloud.calls("queued-resources", "delete") == []
    assert len(cloud.calls("queued-resources", "create")) == 1


def test_the_bucket_is_looked_at_before_anything_costs(cloud):
    cloud.play(bucket="US-WEST4|")
    refused(cloud.run("create"), "has no hierarchical namespace")
    assert cloud.calls("queued-resources") == []
    cloud.play(bucket="EUROPE-WEST4|True")
    assert "moving it between regions is charged" in cloud.ok("create").stderr


def test_what_gcloud_warns_of_is_no_answer(cloud):
    cloud.play(warns=True)
    assert "note" not in cloud.ok("create").stderr
    cloud.play(broken_calls=1)
    refused(cloud.run("setup"), "problem refreshing your current auth tokens")
    (cloud.state / "token").unlink()
    cloud.play(broken_calls=1)
    refused(cloud.run("create"), "gs://shed cannot be looked at: WARNING: This command is using")


def test_a_gcloud_that_cannot_answer_is_not_an_absent_tpu(cloud):
    cloud.ok("create")
    cloud.play(broken_calls=1)
    refused(cloud.run("delete", "--yes"), "problem refreshing your current auth tokens")
    assert (cloud.state / "token").exists()


# -- delete -----------------------------------------------------------------------------------------------------------


def test_delete_asks_and_says_what_stays(cloud):
    cloud.ok("create")
    refused(cloud.run("delete"), "delete asks first; give --yes")
    assert cloud.calls("queued-resources", "delete") == []
    done = cloud.ok("delete", "--yes")
    (call,) = cloud.calls("queued-resources", "delete")
    assert call[4:] == ["pod", "--force", "--quiet", "--project=some-project", "--zone=us-west4-a"]
    assert "gs://shed and what is in it stay" in done.stderr
    assert not (cloud.state / "token").exists()
    assert "nothing to delete" in cloud.ok("delete", "--yes").stderr


@pytest.mark.parametrize("answer", ["no", "yes"])
def test_delete_heeds_the_answer(cloud, answer):
    cloud.ok("create")
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    words = [str(cloud.root / "launch" / "tpu.sh"), "delete"]
    done = subprocess.run(
        words, env=cloud.environment(), stdin=theirs, capture_output=True, text=True, timeout=60
    )
    os.close(ours)
    os.close(theirs)
    assert "Delete the TPU pod in us-west4-a with its disks?" in done.stderr and "[yes/no]" in done.stderr
    if answer == "no":
        assert done.returncode == 1 and done.stderr.endswith("tpu.sh: nothing was deleted\n")
    assert len(cloud.calls("queued-resources", "delete")) == (answer == "yes")


def test_a_failed_deletion_says_that_it_costs(cloud):
    cloud.ok("create")
    cloud.play(cannot_delete=True)
    refused(cloud.run("delete", "--yes"), "may go on costing")
    assert (cloud.state / "token").exists()


# -- setup ------------------------------------------------------------------------------------------------------------


def test_setup_brings_the_commit_and_its_environment_to_every_worker(cloud):
    cloud.ok("create")
    (cloud.root / "launch" / "new.sh").write_text("echo\n")
    done = cloud.run("setup")
    refused(done, "the changes above are not committed")
    assert "?? launch/new.sh" in done.stderr and cloud.homes() == []
    assert "costing until launch/tpu.sh delete" in cloud.ok("setup", "--committed").stderr
    for home in cloud.homes():
        (unit,) = (home / "units").read_text().splitlines()
        assert set(unit.split()) > {
            # Stopped after the logins, so after the run.
            "--property=Before=systemd-user-sessions.service",
            # Names are not remembered, so that hosts see each other's files.
            *("--metadata-cache-ttl-secs=0", "--metadata-cache-negative-ttl-secs=0"),
            # The user's, not root's.
            *(f"--uid={os.getuid()}", f"--gid={os.getgid()}"),
        }
        assert not (home / "jaxllava" / "launch" / "new.sh").exists()
        (line,) = (home / "pip").read_text().splitlines()
        assert f"-c {home}/jaxllava/constraints.txt" in line and line.endswith(f"-e {home}/jaxllava[tpu]")
    cloud.commit()
    cloud.ok("setup")
    for home in cloud.homes():  # the environment is kept where what it is made of is the same
        assert (home / "jaxllava" / "launch" / "new.sh").exists()
        assert len((home / "pip").read_text().splitlines()) == 1
        assert not (home / "jaxllava-new").exists()
    assert len(cloud.homes()) == 2 and "bare" not in cloud.ok("status").stdout


def test_setup_needs_machines_and_all_of_them(cloud):
    refused(cloud.run("setup"), "there is no TPU pod in us-west4-a; launch/tpu.sh create makes it")
    cloud.ok("create")
    cloud.play(unreachable=["pod-w-1"])
    refused(cloud.run("setup"), "the checkout could not be copied to all workers")
    cloud.play(unreachable=[], states=["SUSPENDED"])
    refused(cloud.run("setup"), "pod is SUSPENDED; launch/tpu.sh resume makes it again")


def test_setup_leaves_a_folder_alone_that_it_did_not_make(cloud):
    cloud.ok("create")
    mine = cloud.folder / "home" / "pod-w-0" / "jaxllava" / "thesis.tex"
    mine.parent.mkdir(parents=True)
    mine.write_text("keep")
    done = cloud.run("setup")
    refused(done, "a worker could not be set up")
    assert "was not put there by launch/tpu.sh" in done.stderr and mine.read_text() == "keep"


def test_a_bucket_that_cannot_be_mounted_is_named(cloud):
    cloud.ok("create")
    cloud.settings(BUCKET="gone")
    assert "gs://gone could not be mounted; see" in cloud.run("setup", JAXLLAVA_MOUNT_SECONDS="1").stderr


def test_a_worker_that_cannot_work_is_found_at_setup(tmp_path):
    cloud = Cloud(tmp_path, workers=1)
    cloud.ok("create")
    probe = cloud.bucket(".jaxllava-pod-w-0")
    probe.mkdir()
    assert "gs://shed cannot be written to" in cloud.run("setup").stderr
    probe.rmdir()
    (cloud.folder / "no-libtpu").touch()
    done = cloud.run("setup")
    refused(done, "a worker could not be set up")
    assert "jax for TPUs does not load" in done.stderr
    (cloud.folder / "no-libtpu").unlink()
    cloud.ok("setup")


def test_a_fresh_machine_gets_python_and_gcsfuse_once_it_has_updated_itself(tmp_path):
    cloud = Cloud(tmp_path, workers=1)
    cloud.fresh()
    cloud.ok("create")
    cloud.ok("setup", JAXLLAVA_APT_POLL="0")
    (home,) = cloud.homes()
    install = "apt-get -q -y -o DPkg::Lock::Timeout=600 install"
    key, *told = (home / "apt").read_text().splitlines()
    assert key.startswith("curl ") and told == [
        "apt-get -q update",
        "apt-get -q update",
        f"{install} fuse gcsfuse",
        "apt-get -q update",
        f"{install} software-properties-common",
        "add-apt-repository -n -y ppa:deadsnakes/ppa",
        "apt-get -q update",
        f"{install} python3.11 python3.11-venv",
    ]
    assert " gcsfuse-jammy main\n" in (home / "sources").read_text()


def test_a_machine_that_never_gets_packages_is_named(tmp_path):
    cloud = Cloud(tmp_path, workers=1)
    cloud.fresh()
    cloud.ok("create")
    assert "gcsfuse could not be installed; see" in cloud.run("setup", JAXLLAVA_APT_SECONDS="0").stderr


def test_workers_without_addresses_of_their_own_are_reached_from_within(cloud):
    cloud.settings(INTERNAL_IPS="yes")
    cloud.ok("create")
    cloud.ok("setup")
    calls = cloud.calls("tpu-vm")
    assert {call[3] for call in calls} == {"ssh", "scp"}
    assert all("--internal-ip" in call for call in calls)


# -- train ------------------------------------------------------------------------------------------------------------

ODD = [
    "--config.lr_rules=((r'vision/.*', None), (r\"(projector|decoder)/.*\", 1.0))",
    '--config.template=it\'s "so"  `pwd` $HOME \\ * ;& <x>',
    "--config.note=two\nlines",
    "--config.empty=",
]


def test_arguments_reach_every_worker_as_they_were_given(ready):
    ready.bucket("data", "records", "a.array_record").write_text("x")
    ready.bucket("data", "cache").mkdir()
    ready.bucket("data", "cache", "tokens").write_text("y")
    run(ready, "--config.base=gs://shed/llava", *ODD)
    for home in ready.homes():
        ((*found, last),) = ready.trained(home)
        mounted = f"{home}/gcs/shed"
        assert found == [
            "train",
            *RUN[:3],
            f"{mounted}/runs/one",
            f"--config.data={home}/data/shed/data/records",
            f"--config.base={mounted}/llava",
            *ODD,
        ]
        assert last == "--distributed"
        assert (home / "data" / "shed" / "data" / "records" / "a.array_record").read_text() == "x"
        assert (home / "data" / "shed" / "data" / "cache" / "tokens").read_text() == "y"
    assert "training on tpu,cpu" in ready.ok("logs").stdout


def test_records_that_have_no_room_are_read_from_the_bucket(ready):
    ready.play(bytes=10**15)
    run(ready)
    home = ready.homes()[0]
    assert f"--config.data={home}/gcs/shed/data/records" in ready.trained(home)[0]
    assert "are read over the network" in ready.ok("logs").stdout


def test_records_that_cannot_be_copied_end_the_run(ready):
    ready.play(no_copy=True)
    ready.ok("train", *RUN)
    ready.wait("jaxllava-run/ended", "failed 1\n")
    assert "the network is down" in ready.ok("logs").stdout
    assert ready.trained(ready.homes()[0]) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--config.steps=3",), "train needs --workdir gs://shed/..."),
        (("--workdir", "runs/x"), "it has to be in the bucket of the settings"),
        (("--workdir=gs://other/x",), "it has to be in the bucket of the settings"),
        (("--workdir", "gs://shed"), "it has to be in the bucket of the settings"),
        ((*BARE, "--config.data=data/mine"), "--config.data=data/mine is a path of this machine"),
        (BARE, "train needs --config.data=gs://shed/..."),
        ((*BARE, "--config.data=", "--config.lr=1"), "train needs --config.data=gs://shed/..."),
        ((*BARE, "--config.data", "/data"), "--config.data: give it and its value as one word"),
        ((*RUN, "--config", "/home/me/train.py"), "--config /home/me/train.py is no file of commit"),
        ((*RUN, "--config=mine/train.py:x=1"), "--config mine/train.py is no file of commit"),
        ((*RUN, "--config=configs/new.py"), "launch/tpu.sh setup brings it"),
        ((*RUN, "--config.init=(('.*','/models/x'),)"), "--config.init=/models/x is a path of this machine"),
        (
            (*RUN, "--config.init=(('a/b', None), (r\"v/.*\", 'gs://shed/v'), ['.*', \"models/x\"])"),
            "--config.init=models/x is a path of this machine",
        ),
        ((*RUN, "--config.base=/models/llava"), "gcloud storage rsync -r /models/llava gs://shed/"),
    ],
)
def test_what_no_pod_can_run_is_refused_here(cloud, words, message):
    refused(cloud.run("train", *words), message)
    assert cloud.calls() == []


@pytest.mark.parametrize(
    "words",
    [
        ("--config", "train:stage=ad"),
        ("--config=train.py",),
        ("--config=configs/train",),
        ("--config=launch/mine.py:x",),
        ("--config.init=((r'vision/.*', 'gs://shed/clip'), ('.*', None))",),
    ],
)
def test_what_the_workers_have_is_let_pass(cloud, words):
    (cloud.root / "launch" / "mine.py").write_text("")
    cloud.commit()
    assert cloud.ok("train", *RUN, *words, "--dry-run").stdout.count(" start ") == 1


def test_train_says_that_the_workers_have_other_code(ready):
    ready.play(train="finish")
    commit = ready.git("rev-parse", "HEAD").strip()
    assert "moved on" not in ready.ok("train", *RUN).stderr
    ready.wait("jaxllava-run/ended", "finished")
    (ready.root / "pyproject.toml").write_text("# new\n")
    note = (
        f"note: the workers have commit {commit}, this checkout has moved on; launch/tpu.sh setup brings it"
    )
    assert note in ready.ok("train", *RUN).stderr
    ready.wait("jaxllava-run/train.log", "Z finished\n", 2)
    ready.commit()
    assert note in ready.ok("train", *RUN).stderr


def test_a_second_run_is_refused_while_one_runs(ready):
    ready.ok("train", *RUN)
    refused(ready.run("train", *RUN), "a run is under way on pod")
    refused(ready.run("resume"), "a run is under way on pod")
    done = ready.run("setup")
    assert "a run is under way" in done.stderr and done.returncode == 1
    assert [len(ready.trained(home)) for home in ready.homes()] == [1, 1]


def test_train_needs_the_checkout(cloud):
    cloud.ok("create")
    refused(cloud.run("train", *RUN), "pod has no checkout yet; launch/tpu.sh setup puts it there")


def test_a_worker_that_cannot_be_reached_starts_nothing(ready):
    ready.play(unreachable=["pod-w-1"])
    refused(ready.run("train", *RUN), "not all workers answered")
    ready.play(unreachable=[])
    assert "running" not in ready.ok("status").stdout


def test_a_start_that_fails_on_one_worker_is_taken_back(ready):
    (ready.homes()[1] / "jaxllava-run" / "train.log").mkdir()  # that worker cannot write its log
    refused(ready.run("train", *RUN), "could not be started on all workers, and was ended on the others")
    told = ready.ok("status").stdout
    assert re.search("pod-w-0 stopped", told), told


def test_a_start_that_gcloud_repeats_is_one_start(ready):
    ready.play(breaks="start")
    ready.ok("train", *RUN)
    ready.wait("jaxllava-run/train.log", "training on")
    ready.play(breaks="")
    assert ready.ok("status").stdout.count("running") == 2
    assert [len(ready.trained(home)) for home in ready.homes()] == [1, 1]


def test_another_start_leaves_a_run_alone(ready):
    run(ready)
    done = ready.ssh(f"{WORKER} start another '' --workdir gs://shed/x")
    assert done.returncode == 1 and done.stderr.count("a run is under way") == 2
    assert ready.ssh(f"{WORKER} stop another").stdout.count("running") == 2
    # Of a train that looked before the other one began: its start fails, and ends nothing.
    hidden = ready.root / "launch" / "tpu_train.sh"
    hidden.write_text(hidden.read_text().replace("any_is running", "any_is never"))
    refused(ready.run("train", *RUN), "could not be started on all workers")
    assert ready.ok("status").stdout.count("running") == 2


def test_a_look_at_the_wrong_moment_keeps_no_run_from_its_start(ready):
    locks = [(home / "jaxllava-run" / "lock").open("a") for home in ready.homes()]
    for lock in locks:
        fcntl.flock(lock, fcntl.LOCK_SH)  # as a look does for a moment

    def release() -> None:
        until(lambda: [call for call in ready.calls("tpu-vm", "ssh") if " start " in str(call)])
        time.sleep(0.3)
        for lock in locks:
            lock.close()

    thread = threading.Thread(target=release)
    thread.start()
    try:
        run(ready)
    finally:
        thread.join()


def test_several_slices_get_the_same_command(tmp_path):
    cloud = Cloud(tmp_path, workers=1)
    try:
        cloud.settings(SLICES="2")
        cloud.ok("create")
        cloud.ok("setup")
        run(cloud)
        assert [home.name for home in cloud.homes()] == ["pod-0-w-0", "pod-1-w-0"]
        assert "[pod-1-w-0] training" in cloud.ok("logs", "--worker", "all").stdout
        assert "training" in cloud.ok("logs", "--slice", "1").stdout
        refused(cloud.run("logs", "--slice", "2"), "--slice 2: there are 2, counted from 0")
    finally:
        cloud.end()


# -- how it goes on and ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("does", "state"),
    [("finish", "finished"), ("fail", "failed 3"), ("orphan", "failed 3"), ("stop early", "stopped")],
)
def test_how_a_run_ended_is_known(ready, does, state):
    ready.play(train=does)
    ready.ok("train", *RUN)
    ready.wait("jaxllava-run/ended", state)
    ready.wait("jaxllava-run/train.log", f"Z {state}\n")
    assert ready.ok("status").stdout.count(f" {state}\n") == 2
    assert {path.name[:7] for path in ready.bucket("runs", "one", "logs").iterdir()} == {"pod-w-0", "pod-w-1"}


def test_stop_lets_the_run_save_and_the_same_command_goes_on(ready):
    run(ready)
    done = ready.ok("stop")
    assert done.stdout.count("stopped") == 2
    assert "pod goes on costing until launch/tpu.sh delete" in done.stderr
    run(ready)


@pytest.mark.parametrize("words", [("train", *RUN), ("status",)], ids=lambda words: words[0])
def test_what_leaves_a_tpu_behind_says_that_it_costs(ready, words):
    assert "pod goes on costing until launch/tpu.sh delete" in ready.ok(*words).stderr


def test_a_machine_that_began_anew_has_lost_its_run(ready):
    run(ready)
    ready.end()
    assert ready.ok("status").stdout.count("lost") == 2
    ready.ok("resume")
    ready.wait("trained.jsonl", "\n", 2)


def test_logs_of_one_worker(ready):
    ready.ok("train", *RUN)
    ready.forget()
    ready.ok("logs", "--worker", "1", "--lines=7")
    (call,) = ready.calls("tpu-vm", "ssh")
    assert "--worker=1" in call and "--command=tail -n 7 jaxllava-run/train.log" in call


def test_resume_makes_the_machines_again_and_gives_the_same_command(ready):
    refused(ready.run("resume"), "no run was started on pod from this checkout")
    run(ready, *ODD)
    before = [ready.trained(home) for home in ready.homes()]
    commit = (ready.state / "commit").read_text()
    (ready.root / "pyproject.toml").write_text("# moved on\n")
    ready.commit()
    ready.play(states=["SUSPENDING", "SUSPENDED"], after_create=["PROVISIONING", "ACTIVE"])
    ready.forget()
    ready.ok("resume")
    ready.wait("trained.jsonl", "\n")
    assert [call[3] for call in ready.calls("queued-resources") if call[3] != "describe"] == [
        "delete",
        "create",
    ]
    assert [ready.trained(home) for home in ready.homes()] == before
    home = ready.homes()[0]  # with the code that it began with
    assert (home / "jaxllava" / ".from-launch").read_text() == commit
    assert "moved on" not in (home / "jaxllava" / "pyproject.toml").read_text()


def test_watch_resumes_until_the_run_is_finished_and_deletes(ready):
    run(ready, "--config.base=gs://shed/llava")
    ready.play(states=["ACTIVE", "SUSPENDED"], after_create=["ACTIVE"], train="finish")
    done = ready.ok("watch", "--then-delete")
    assert "pod is SUSPENDED; resuming gs://shed/runs/one, 9 resumes left" in done.stderr
    assert (
        "the run is finished: gs://shed/runs/one/model\n" in done.stderr and "pod is deleted" in done.stderr
    )
    assert "not made" not in done.stderr
    assert "absent" in ready.ok("status").stdout


def test_watch_starts_a_run_again_that_was_lost(ready):
    run(ready)
    ready.end()
    ready.play(train="finish")
    assert "the run is finished" in ready.ok("watch").stderr
    assert len(ready.trained(ready.homes()[0])) == 2
    assert ready.calls("queued-resources", "create") == []


def test_a_run_that_fails_because_its_machines_go_is_resumed(ready):
    """The others end in an error as soon as one host is gone; that the request is SUSPENDED is known later."""
    ready.play(train="fail")
    run(ready)
    ready.wait("jaxllava-run/ended", "failed 3")
    ready.play(states=["ACTIVE", "ACTIVE", "SUSPENDED"], after_create=["ACTIVE"], train="finish")
    assert "the run is finished" in ready.ok("watch").stderr
    assert len(ready.calls("queued-resources", "create")) == 1


def left_behind(cloud: Cloud, index: int, state: str) -> None:
    """A worker in a state that status calls so; the machine is there."""
    home = cloud.homes()[index]
    if state == "bare":
        shutil.rmtree(home / "jaxllava")
    elif state == "lost":
        (home / "jaxllava-run" / "pid").write_text("4194305\n")  # more than any has
    else:
        (home / "jaxllava-run" / "ended").write_text(f"{state}\n")


@pytest.mark.parametrize("state", ["lost", "stopped", "bare"])
def test_watch_goes_on_where_one_worker_took_the_others_along(ready, state):
    (ready.state / "train").write_text(" ".join(RUN))
    left_behind(ready, 0, "failed 1")
    left_behind(ready, 1, state)
    ready.play(train="finish")
    assert "pod is ACTIVE; resuming" in ready.ok("watch").stderr
    assert ready.calls("queued-resources", "create") == []


def test_watch_does_not_judge_a_run_by_the_workers_that_answer(ready):
    (ready.state / "train").write_text(" ".join(RUN))
    left_behind(ready, 0, "failed 1")
    ready.play(unreachable=["pod-w-1"])
    done = ready.run("watch", "--resumes", "1")
    refused(done, "pod is ACTIVE, and all 1 resumes are used")
    refused(done, "pod goes on costing until launch/tpu.sh delete")


def test_watch_starts_no_old_run_on_new_machines(ready):
    (ready.state / "train").write_text(" ".join(RUN))
    refused(ready.run("watch"), "no run was started on these machines; launch/tpu.sh train starts one")
    assert ready.trained(ready.homes()[0]) == []


def test_watch_does_not_make_again_what_was_deleted(ready):
    ready.ok("train", *RUN)
    ready.play(states=["WAITING_FOR_RESOURCES"])
    with ready.begun("watch") as watch:
        until(lambda: ready.calls("queued-resources", "describe"))
        (
            ready.folder / "request-pod.json"
        ).unlink()  # in the Console, or by a `delete` that has not returned yet
        assert watch.wait(30) == 1
        assert watch.stderr and "pod was deleted; nothing is watched any more" in watch.stderr.read()
    assert (ready.state / "token").exists() and ready.calls("queued-resources", "create") == []


def test_a_deletion_while_watch_waits_for_machines_is_heeded(ready):
    (ready.state / "train").write_text(" ".join(RUN))
    ready.play(states=["SUSPENDED"], after_create=["WAITING_FOR_RESOURCES"])
    with ready.begun("watch") as watch:
        until(lambda: ready.calls("queued-resources", "create"))
        looks = len(ready.calls("queued-resources", "describe"))
        until(lambda: len(ready.calls("queued-resources", "describe")) > looks + 2)
        refused(ready.run("delete", "--yes"), "another tpu.sh is at work on pod (a watch that resumes?)")
        (ready.folder / "request-pod.json").unlink()
        assert watch.wait(30) == 1
        assert watch.stderr and "pod was deleted; nothing is watched any more" in watch.stderr.read()
    assert len(ready.calls("queued-resources", "create")) == 1


def test_watch_goes_on_where_its_own_resume_ended_between_deletion_and_request(ready):
    (ready.state / "train").write_text(" ".join(RUN))
    ready.play(states=["SUSPENDED"], after_create=["ACTIVE"], no_quota=1, train="finish")
    done = ready.ok("watch")
    assert "that resume did not succeed" in done.stderr
    assert "pod is absent; resuming gs://shed/runs/one, 8 resumes left" in done.stderr
    assert not (ready.state / "remaking").exists() and not (ready.state / "lock").exists()


def test_watch_ends_where_gcloud_cannot_look_for_long(ready):
    ready.ok("train", *RUN)
    ready.play(broken_calls=1000)
    done = ready.run("watch", JAXLLAVA_TPU_MINUTE="0")
    refused(done, "gcloud has not been able to look for 60 minutes")
    refused(done, "pod goes on costing until launch/tpu.sh delete")


def test_watch_ends_where_the_run_itself_fails(ready):
    ready.play(train="fail")
    ready.ok("train", *RUN)
    refused(ready.run("watch"), "the run failed (pod-w-0 failed 3;pod-w-1 failed 3")
    assert len(ready.trained(ready.homes()[0])) == 1


def test_watch_has_a_limit_and_heeds_a_deletion(ready):
    ready.ok("train", *RUN)
    ready.play(states=["SUSPENDED"], after_create=["FAILED"], error="none left")
    refused(ready.run("watch", "--resumes", "2"), "pod is FAILED (none left), and all 2 resumes are used")
    assert len(ready.calls("queued-resources", "create")) == 2
    ready.ok("delete", "--yes")
    refused(ready.run("watch"), "pod was deleted; nothing is watched any more")


# -- dry runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        *(
            ("create",),
            ("setup",),
            ("train", *RUN, *ODD),
            ("status",),
            ("logs", "-f"),
            ("stop",),
            ("resume",),
        ),
        *(("watch", "--then-delete"), ("delete",)),
    ],
    ids=lambda words: words[0],
)
def test_a_dry_run_prints_commands_and_runs_none(cloud, words):
    (cloud.bin / "gcloud").rename(cloud.bin / "hidden")
    done = cloud.ok(*words, "--dry-run")
    assert "gcloud compute tpus" in done.stdout
    assert cloud.calls() == [] and not (cloud.root / ".tpu").exists()


def test_what_a_dry_run_prints_does_what_a_real_one_does(cloud):
    """The printed lines, given to a shell, make the calls of the real commands, and the same run on the workers."""
    steps = [("create",), ("setup",), ("train", *RUN, *ODD), ("stop",), ("delete", "--yes")]
    printed, real = [], []
    for calls in (printed, real):
        for words in steps:
            cloud.forget()
            if calls is printed:
                text = cloud.ok(*words, "--dry-run").stdout
                shell = subprocess.run(
                    ["sh"], input=text, env=cloud.environment(), capture_output=True, text=True
                )
                assert shell.returncode == 0, shell.stderr
            else:
                cloud.ok(*words)
            if words[0] == "train":
                cloud.wait("trained.jsonl", "\n")
                calls.append([cloud.trained(home) for home in cloud.homes()])
                cloud.forget()
            for call in cloud.calls():
                calls.append([re.sub(r"\b[0-9a-f]{16}\b", "TOKEN", word) for word in call])
        assert not (cloud.state / "token").exists()
    assert printed == real
