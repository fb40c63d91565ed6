"""What each engine needs said, and what it must not be asked."""

import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import apache_beam as beam
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)
from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import _RUNNER_MAP, PipelineRunner, create_runner

REFUSED = {
    "DaskRunner": "it drops output without a word in Beam 2.77 (whatever finish_bundle emits, every branch but one)"
}

# What works, and is documented; Beam knows more names.
RECOMMENDED = "FnApiRunner, PrismRunner, PortableRunner, FlinkRunner, SparkRunner or DataflowRunner"

# Storage that a machine elsewhere can not see.
_OF_THIS_MACHINE = ("file", "local", "memory")

# Units in work at once in a worker's one process.
DATAFLOW_THREADS = 2

# Where an exception of ours arrives as itself.
_IN_PROCESS = (None, "FnApiRunner", "DirectRunner")


@dataclass(frozen=True)
class Ending:
    """How an engine came to an end with a graph.

    Attributes:
        handed_over: it was only written down as a template; whoever launches that runs it.
        trouble: why the engine gave up: workers lost for good, the job cancelled, the job server gone.
    """

    handed_over: bool = False
    trouble: str | None = None


def prepare_options(options: PipelineOptions) -> None:
    """Refuses what can not work, as early as it can be known, and says for Dataflow what nobody said.

    Raises:
        ValueError: the runner is unknown, refused or not installed, or an option that it must have is missing.
    """
    name = runner_name(options)
    if name is None:
        return
    if name in REFUSED:
        raise ValueError(f"--runner: {name} is refused: {REFUSED[name]}. Use {RECOMMENDED}.")
    try:
        runner = create_runner(options.view_as(StandardOptions).runner)
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"--runner: must be {RECOMMENDED}, found {name!r}: {error}") from error
    if name == "DataflowRunner":
        _prepare_dataflow(options)
    if errors := PipelineOptionsValidator(options, runner).validate():
        raise ValueError(f"--runner {name}: " + "\n".join(errors))


def _prepare_dataflow(options: PipelineOptions) -> None:
    """One worker process a machine, a unit in work and one beginning or ending, and nothing installed at start-up.

    An accelerator belongs to one process, and on processors alone one process already uses them all; Beam would
    start one for each core, every one with a tower of its own.
    """
    try:
        importlib.import_module("apache_beam.runners.dataflow.internal.apiclient")
    except ImportError as error:
        raise ValueError(
            "--runner DataflowRunner: needs Beam's Google Cloud parts, found none. "
            "pip install 'lit-precompute[dataflow]'."
        ) from error
    debug, worker, setup = (options.view_as(kind) for kind in (DebugOptions, WorkerOptions, SetupOptions))
    if not debug.lookup_experiment("use_multiple_sdk_containers"):
        debug.add_experiment("no_use_multiple_sdk_containers")
    if debug.number_of_worker_harness_threads is None:
        debug.number_of_worker_harness_threads = DATAFLOW_THREADS
    if worker.sdk_container_image and setup.sdk_location == "default":
        setup.sdk_location = "container"


def check_reach(options: PipelineOptions, places: dict[str, str]) -> None:
    """Refuses paths that only this machine can see, when the workers are elsewhere.

    Args:
        options: Beam's.
        places: flag to path or URL.

    Raises:
        ValueError: the runner is Dataflow and a path is of this machine.
    """
    if runner_name(options) != "DataflowRunner":
        return
    local = {flag: path for flag, path in places.items() if _is_of_this_machine(path)}
    if local:
        found = ", ".join(f"{flag} {path}" for flag, path in local.items())
        raise ValueError(
            f"--runner DataflowRunner: paths must be storage that its workers reach, such as gs://, found {found}."
        )


def runner_name(options: PipelineOptions) -> str | None:
    """The runner's class name however it was spelt (`flink`, `FlinkRunner`, a dotted path), None when not given."""
    given = options.view_as(StandardOptions).runner
    if given is None:
        return None
    known = {name.lower(): name for name in REFUSED} | _RUNNER_MAP
    path: str = known.get(given.lower(), known.get(given.lower() + "runner", given))
    return path.rpartition(".")[2]


def runner_of(options: PipelineOptions) -> PipelineRunner | str:
    """The runner asked for; the in-process FnApiRunner when none is.

    It is named rather than left to `DirectRunner`, which tries to download another engine first and falls back
    without saying so.
    """
    return options.view_as(StandardOptions).runner or FnApiRunner()


def execute(options: PipelineOptions, graph: Callable[[beam.Pipeline], object]) -> Ending:
    """Runs a graph until its engine is through with it.

    An engine that gives up is no exception: what its workers published stands, and the receipts say what is missing.
    In this process, what a step raised comes through as it is.

    Args:
        options: Beam's.
        graph: adds the steps to a pipeline.
    """
    pipeline = beam.Pipeline(runner=runner_of(options), options=options)
    graph(pipeline)
    name = runner_name(options)
    try:
        pipeline.run().wait_until_finish()
    except Exception as error:  # RuntimeError, gRPC's and Dataflow's own have no common base
        if name in _IN_PROCESS:
            raise
        return Ending(trouble=f"{name}: {_first_lines(error)}")
    return Ending(handed_over=options.view_as(GoogleCloudOptions).template_location is not None)


def _is_of_this_machine(path: str) -> bool:
    protocol, found, _ = path.rpartition("::")[2].partition("://")
    return not path.startswith("random:") and (not found or protocol in _OF_THIS_MACHINE)


def _first_lines(error: Exception, lines: int = 3) -> str:
    """An engine's message without the page of stack that follows it."""
    text: Iterable[str] = (line.strip() for line in str(error).splitlines())
    kept = [line for line in text if line and not line.startswith(("at ", "File "))]
    return " ".join(kept[:lines])[:500] or type(error).__name__
