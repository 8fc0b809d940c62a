"""Where Beam runs, and Beam itself imported without its noise.

Beam logs a warning about a missing BigQuery client while it loads. Whatever uses Beam imports it from here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_disabled = logging.root.manager.disable
logging.disable(logging.WARNING)
import apache_beam as beam  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner  # noqa: E402
from apache_beam.runners.runner import PipelineRunner, create_runner  # noqa: E402

from input_pipeline.errors import UserError  # noqa: E402

logging.disable(_disabled)
# What goes wrong in a task is raised. Beam logs it as well, with a page of its own calls.
logging.getLogger("apache_beam.runners.common").setLevel(logging.CRITICAL)


Stage = tuple[str, Callable[[Any], None], Sequence[Any]]


@dataclass(frozen=True)
class Engine:
    """Where Beam runs.

    `runner` '' is Beam's local one, named outright because its default tries to download a service; `workers`
    is its number of processes. Any other name is a Beam runner ('DaskRunner', 'FlinkRunner', ...) with its
    flags as on a command line. Its workers have to see the input and output folders under the same paths:
    what one stage hands to the next lies in files there, and nothing else is shared.
    """

    runner: str = ""
    flags: tuple[str, ...] = ()
    workers: int = 1

    def run(self, stages: Sequence[Stage], log: Path) -> None:
        """Calls each stage's function once for each of its tasks, wherever the runner has a worker for it.

        A stage begins when the one before it has ended. Tasks are few and long: what moves by the million
        stays inside of them, since every element that passes through Beam costs as much as a whole comment may.

        Args:
            stages: (label, function, tasks); no stage may be without a task.
            log: where worker processes of this machine write what they would print.

        Raises:
            KeyboardInterrupt: also where it came up in a task.
        """
        try:
            with _stderr_to(log) if self.workers > 1 and not self.runner else contextlib.nullcontext():
                self._run(stages)
        except RuntimeError as error:
            if "KeyboardInterrupt" in str(error):  # Beam wraps it like any error of a worker
                raise KeyboardInterrupt from None
            raise

    def _run(self, stages: Sequence[Stage]) -> None:
        with beam.Pipeline(runner=self._instance(), options=self._options()) as pipeline:
            begin: Any = pipeline | beam.Create([0], reshuffle=False)
            for label, function, tasks in stages:
                ended = (
                    begin
                    | f"Tasks of {label}" >> beam.FlatMap(lambda _, tasks=list(tasks): tasks)
                    # What lets a runner give the tasks to different workers.
                    | f"Spread {label}" >> beam.Reshuffle()
                    | label >> beam.Map(function)
                )
                # A group is known when all its members are: the barrier between two stages.
                begin = (
                    ended
                    | f"Ended {label}" >> beam.Map(lambda _: (0, 0))
                    | f"All of {label}" >> beam.GroupByKey()
                )

    def _options(self) -> PipelineOptions:
        # Without explicit flags Beam parses sys.argv, which belongs to our own command line.
        flags = list(self.flags)
        if self.runner:
            flags.append(f"--runner={self.runner}")
        elif self.workers > 1:
            flags += [f"--direct_num_workers={self.workers}", "--direct_running_mode=multi_processing"]
        # Type checks cost time on every element.
        return PipelineOptions(flags, pipeline_type_check=False)

    def _instance(self) -> PipelineRunner:
        if self.runner == "DaskRunner":
            from apache_beam.runners.dask.dask_runner import DaskRunner  # beam does not find it by name

            return DaskRunner()
        try:
            return create_runner(self.runner) if self.runner else FnApiRunner()
        except (ValueError, ImportError, AttributeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"--runner {self.runner}: {reason}; name a runner of Beam that is installed"
            ) from None


@contextlib.contextmanager
def _stderr_to(log: Path) -> Iterator[None]:
    """Sends what this process and those that it starts write to stderr to a file.

    Beam's worker processes tell of every connection there. Who still has something to say to the user, such as
    a progress bar, has to have taken a copy of stderr before.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with log.open("ab") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
