"""`jaxllava serve` as a process: loading, answering, ending; and what it refuses."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from jaxllava import cli
from jaxllava.serving.arguments import default_name
from jaxllava.weights import orbax
from tests.jaxllava.serving_server import model_in, until


def health(url: str) -> int:
    try:
        return urllib.request.urlopen(f"{url}/health").status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_process_from_start_to_end(tmp_path):
    """It is asked while it loads, ended by SIGTERM while it answers, and finishes that answer."""
    model = model_in(tmp_path / "tokenizer")
    folder = tmp_path / "small"
    orbax.save_model(folder, model.params, model.config, model.tokenizer, "v1_bare")
    command = [
        sys.executable,
        "-m",
        "jaxllava",
        "serve",
        "--model",
        str(folder),
        "--port",
        "0",
        "--no-warmup",
    ]
    environment = os.environ | {"JAXLLAVA_API_KEY": "s3cret"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        assert process.stdout is not None
        said = [process.stdout.readline()]
        url = re.search(r"http://127\.0\.0\.1:\d+", said[0]).group()  # type: ignore[union-attr]
        assert health(url) == 503
        said.append(process.stdout.readline())
        assert said[1].startswith("small: ") and health(url) == 200
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="s3cret", timeout=60)
        ask = {"model": "small", "messages": [{"role": "user", "content": "left"}], "temperature": 0}
        stream = iter(client.chat.completions.create(**ask, max_tokens=400, stream=True))  # type: ignore
        next(stream)
        process.send_signal(signal.SIGTERM)
        until(lambda: health(url) == 503)
        parts = list(stream)
        assert parts[-1].choices[0].finish_reason is not None
        said.append(process.communicate(timeout=30)[0])
        assert process.returncode == 0 and "stopped; 1 requests were answered" in said[2]
        assert "s3cret" not in "".join(said)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


FAILING = """
import sys, time
from jaxllava import cli, slots
begin, advance, calls = slots.Slots.begin, slots.Slots.advance, []
def fails(*args, **more):
    calls.append(1)
    if len(calls) > 2:
        raise RuntimeError("out of memory\\nwhile 7 bytes were wanted")
    return begin(*args, **more)
slots.Slots.begin = fails
slots.Slots.advance = lambda *args: (time.sleep(0.1), advance(*args))[1]  # so that streams last
cli.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_a_failed_engine_ends_the_process(tmp_path):
    """What is in flight is told so; then status 1, for whoever starts it again."""
    model = model_in(tmp_path / "tokenizer")
    orbax.save_model(tmp_path / "m", model.params, model.config, model.tokenizer, "v1_bare")
    flags = ["serve", "--model", str(tmp_path / "m"), "--port", "0", "--no-warmup"]
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", FAILING, *flags], stdout=pipe, stderr=pipe, text=True)
    try:
        assert process.stdout is not None
        url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline()).group()  # type: ignore[union-attr]
        assert process.stdout.readline().startswith("m: ")
        client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60, max_retries=0)
        ask = {
            "model": "m",
            "messages": [{"role": "user", "content": "left"}],
            "max_tokens": 400,
            "temperature": 0,
        }
        streams = [iter(client.chat.completions.create(**ask, stream=True)) for _ in range(2)]  # type: ignore
        with pytest.raises(openai.InternalServerError, match="engine has failed") as error:
            client.chat.completions.create(**ask)  # type: ignore
        assert error.value.status_code == 503
        for stream in streams:
            with pytest.raises(openai.APIError, match="engine has failed"):
                list(stream)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 1 and "stopped" not in out
        last = err.splitlines()[-1]
        assert (
            last.startswith("error: the engine has failed (RuntimeError: out of memory); ")
            and "status 1" in last
        )
        assert err.count("Traceback") == 1, err
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--model", "nowhere"], "--model nowhere is no folder"),
        (["--model", ".", "--slots", "0"], "--slots 0: at least 1"),
        (["--model", ".", "--timeout", "nan"], "--timeout nan: a positive"),
        (["--model", ".", "--port", "70000"], "--port 70000"),
        (["--model", ".", "--host", "192.0.2.1"], "--host 192.0.2.1 --port 8000: cannot listen there"),
        (["--model", "configs", "--port", "0"], "configs"),
        (["--model", ".", "--prot", "1"], "Did you mean '--port'?"),
        (["--modle", "."], "Did you mean '--model'?"),
    ],
)
def test_mistakes_take_one_line(flags, told, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["serve", *flags])
    assert error.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("error: ") and told in lines[-1]
    # Listening elsewhere without a key is warned of once.
    assert len(lines) == 1 + ("192.0.2.1" in flags)


def test_names(tmp_path, monkeypatch):
    """Models trained here all lie in folders called `model`."""
    (tmp_path / "mine" / "model").mkdir(parents=True)
    assert default_name(tmp_path / "mine" / "model") == "mine-model"
    assert default_name(tmp_path / "mine") == "mine"
    monkeypatch.chdir(tmp_path / "mine" / "model")
    assert (default_name(Path()), default_name(Path(".."))) == ("mine-model", "mine")
    assert default_name(Path("/model")) == "model"


def test_without_aiohttp(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("jaxllava.serving.arguments.find_spec", lambda name: None)
    with pytest.raises(SystemExit):
        cli.main(["serve", "--model", str(tmp_path)])
    assert "pip install" in capsys.readouterr().err


@pytest.mark.slow
def test_ended_while_it_loads(tmp_path):
    """At once, with 0."""
    model = model_in(tmp_path / "tokenizer")
    orbax.save_model(tmp_path / "m", model.params, model.config, model.tokenizer, "v1_bare")
    command = [sys.executable, "-m", "jaxllava", "serve", "--model", str(tmp_path / "m"), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None and "loading" in process.stdout.readline()
    begin = time.monotonic()
    process.send_signal(signal.SIGINT)
    text = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "stopped" in text and "Traceback" not in text, text
    assert time.monotonic() - begin < 30


@pytest.mark.slow
def test_a_second_signal_ends_what_runs(tmp_path):
    """Those that wait are told so, and it ends with 0 before they could have been answered."""
    model = model_in(tmp_path / "tokenizer")
    orbax.save_model(tmp_path / "m", model.params, model.config, model.tokenizer, "v1_bare")
    flags = ["--model", str(tmp_path / "m"), "--port", "0", "--slots", "1", "--no-warmup"]
    command = [sys.executable, "-m", "jaxllava", "serve", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    url = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline()).group()  # type: ignore[union-attr]
    assert process.stdout.readline().startswith("m: ")
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", timeout=60, max_retries=0)
    waiting = 150

    def ask(number: int) -> str:
        messages = [{"role": "user", "content": f"{number} red cups"}]
        try:
            client.chat.completions.create(model="m", messages=messages, max_tokens=400)  # type: ignore
        except openai.InternalServerError as error:
            return str(error.code)
        return ""

    with ThreadPoolExecutor(waiting) as pool:
        asked = [pool.submit(ask, number) for number in range(waiting)]
        until(lambda: any(one.done() for one in asked), 60)
        process.send_signal(signal.SIGTERM)
        assert "stopping: " in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        while process.poll() is None:  # impatience changes nothing
            process.send_signal(signal.SIGINT)
            time.sleep(0.02)
        text = process.communicate(timeout=20)[0]
        told = [one.result() for one in asked]
    assert process.returncode == 0 and "Traceback" not in text, text
    assert set(told) == {"", "shutting_down"} and told.count("shutting_down") > waiting // 2
    assert f"stopped; {told.count('')} requests were answered" in text
