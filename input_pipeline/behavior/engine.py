"""Where Beam runs, and Beam itself imported without its noise.

Beam logs a warning about a missing BigQuery client while it loads. Whatever uses Beam imports it from here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

_disabled = logging.root.manager.disable
logging.disable(logging.WARNING)
import apache_beam as beam  # noqa: E402
from apache_beam.options.pipeline_options import PipelineOptions  # noqa: E402
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner  # noqa: E402
from apache_beam.runners.runner import PipelineRunner  # noqa: E402

logging.disable(_disabled)


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

    def run(self, label: str, function: Callable[[Any], None], tasks: Iterable[Any]) -> None:
        """Calls `function` once for each task, wherever the runner has a worker for it.

        Tasks are few and long: what moves by the million stays inside of them, since every element that
        passes through Beam costs as much as a whole comment may.
        """
        try:
            self._run(label, function, list(tasks))
        except RuntimeError as error:
            if "KeyboardInterrupt" in str(error):  # Beam wraps it like any error of a worker
                raise KeyboardInterrupt from None
            raise

    def _run(self, label: str, function: Callable[[Any], None], tasks: list[Any]) -> None:
        with beam.Pipeline(runner=self._instance(), options=self._options()) as pipeline:
            # The shuffle is what lets a runner give the tasks of one source to different workers.
            _ = (
                pipeline
                | beam.Create(tasks, reshuffle=False)
                | beam.Reshuffle()
                | label >> beam.Map(function)
            )

    def _options(self) -> PipelineOptions:
        # Without explicit flags Beam parses sys.argv, which belongs to our own command line.
        flags = list(self.flags)
        if self.runner:
            flags.append(f"--runner={self.runner}")
        elif self.workers > 1:
            flags += [
                f"--direct_num_workers={self.workers}",
                "--direct_running_mode=multi_processing",
                "--default_sdk_harness_log_level=ERROR",
            ]
        # Type checks cost time on every element.
        return PipelineOptions(flags, pipeline_type_check=False)

    def _instance(self) -> PipelineRunner | str:
        if self.runner == "DaskRunner":
            from apache_beam.runners.dask.dask_runner import DaskRunner  # beam does not find it by name

            return DaskRunner()
        return self.runner or FnApiRunner()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
