"""What Dataflow would be told: the job description, built whole and offline, staged on an emulator."""

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

pytestmark = pytest.mark.runners

REPO = Path(__file__).resolve().parents[3]
BUCKET = "lit-precompute-test"
IMAGE = "us-docker.pkg.dev/my-project/images/lit-embed-cuda:1"

# What docs/dataflow.md says to add for each kind of worker.
CPU = ["--machine_type=n2-standard-8"]
CUDA = [
    "--machine_type=g2-standard-8",
    "--dataflow_service_options=worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx",
]
L4 = "accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx"
CUDA_AS_HINT = ["--machine_type=g2-standard-8", f"--resource_hint={L4}"]
TPU = [
    "--machine_type=ct5lp-hightpu-1t",
    "--dataflow_service_options=worker_accelerator=type:tpu-v5-lite-podslice;topology:1x1",
]

# Beam asks for credentials, up to 35 s at a time, before it talks to an emulator that wants none.
LAUNCH = """
import sys
import apache_beam.internal.gcp.auth as auth
auth._Credentials._credentials_init = True
from pipelines.embed import main
sys.exit(main())
"""


@pytest.fixture(scope="module")
def storage() -> Iterator[str]:
    """The address of an emulator of Google Cloud Storage that has a bucket."""
    pytest.importorskip(
        "apache_beam.runners.dataflow.internal.apiclient", reason="needs the extra test-runners"
    )
    os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # read when gcsfs is imported
    pytest.importorskip("gcsfs", reason="needs the extra test-runners")
    server = pytest.importorskip("gcp_storage_emulator.server", reason="needs the extra test-runners")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    running = server.create_server("127.0.0.1", port, in_memory=True, default_bucket=BUCKET)
    running.start()
    yield f"http://127.0.0.1:{port}"
    running.stop()


@pytest.fixture
def launch(storage: str, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Runs the command for Dataflow with input and store on the emulator."""
    import gcsfs

    options = {"token": "anon", "endpoint_url": storage, "project": "test"}
    (tmp_path / "options.json").write_text(json.dumps({"gs": options}))
    fs = gcsfs.GCSFileSystem(**options)
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), (250, 0, 0)).save(picture, "PNG")
    for name in "ab":
        fs.pipe_file(f"{BUCKET}/{tmp_path.name}/photos/{name}.png", picture.getvalue())

    def run(*flags: str, output: str | None = None) -> "subprocess.CompletedProcess[str]":
        place = f"gs://{BUCKET}/{tmp_path.name}"
        command = [
            *("--input", f"{place}/photos", "--format", "folder", "--output", output or f"{place}/store"),
            *("--tower", "vit-mu-32", "--image-size", "32", "--checkpoint", "random:0", "--tower-id", "t"),
            *("--storage-options", str(tmp_path / "options.json"), "--runner", "DataflowRunner"),
            *("--project", "my-project", "--region", "us-central1", "--job-name", "photos"),
            *("--temp_location", f"{place}/temp", "--staging_location", f"{place}/staging"),
            *("--sdk_container_image", IMAGE, "--max_num_workers", "20", "--disk_size_gb", "100", *flags),
        ]
        environment = {
            **os.environ,
            "STORAGE_EMULATOR_HOST": storage,
            "NO_GCE_CHECK": "true",
            "PYTHONPATH": str(REPO),
        }
        return subprocess.run(
            [sys.executable, "-c", LAUNCH, *command],
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )

    return run


def objects(storage: str, folder: str) -> set[str]:
    """The top names under a folder of the bucket."""
    import gcsfs

    fs = gcsfs.GCSFileSystem(token="anon", endpoint_url=storage, project="test", use_listings_cache=False)
    prefix = f"{BUCKET}/{folder}/"
    return {path.removeprefix(prefix).split("/")[0] for path in fs.find(prefix)}


@pytest.mark.parametrize("kind", [CPU, CUDA, CUDA_AS_HINT, TPU], ids=["cpu", "cuda", "hint", "tpu"])
def test_the_job_description(launch: Any, storage: str, tmp_path: Path, kind: list[str]) -> None:
    ran = launch(f"--template_location={tmp_path}/job.json", *kind)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "template written" in ran.stdout
    job = json.loads((tmp_path / "job.json").read_text())
    assert (job["name"], job["type"]) == ("photos", "JOB_TYPE_BATCH")
    environment = job["environment"]
    assert "no_use_multiple_sdk_containers" in environment["experiments"]
    assert "use_multiple_sdk_containers" not in environment["experiments"]
    assert environment["tempStoragePrefix"].startswith(
        f"storage.googleapis.com/{BUCKET}/{tmp_path.name}/temp"
    )
    [pool] = environment["workerPools"]
    assert pool["machineType"] == kind[0].partition("=")[2]
    assert (pool["diskSizeGb"], pool["autoscalingSettings"]["maxNumWorkers"]) == (100, 20)
    assert pool["numThreadsPerWorker"] == 2
    [harness] = pool["sdkHarnessContainerImages"]  # one environment: no step may ask for workers of its own
    assert harness["containerImage"] == pool["workerHarnessContainerImage"] == IMAGE
    options = environment["sdkPipelineOptions"]["options"]
    assert options["sdk_location"] == "container"
    accelerators = [flag.partition("=")[2] for flag in kind if "service_options" in flag]
    assert environment.get("serviceOptions", []) == accelerators
    steps, hints = staged_graph(storage, options["pipelineUrl"])
    assert hints == ([L4.partition("=")[2].encode()] if kind is CUDA_AS_HINT else [])
    for label in ("Plan units", "Spread over workers", "Embed unit", "Collect receipts", "Write manifest"):
        assert label in steps
    assert objects(storage, tmp_path.name) == {"photos", "staging", "store"}


def staged_graph(storage: str, url: str) -> tuple[set[str], list[bytes]]:
    """The names of a staged graph's steps, and what its environments ask for as accelerators."""
    import gcsfs
    from apache_beam.portability.api import beam_runner_api_pb2

    fs = gcsfs.GCSFileSystem(token="anon", endpoint_url=storage, project="test")
    graph = beam_runner_api_pb2.Pipeline.FromString(fs.cat_file(url))
    steps = {step.unique_name for step in graph.components.transforms.values()}
    environments = graph.components.environments.values()
    hints = [
        hint for one in environments for name, hint in one.resource_hints.items() if "accelerator" in name
    ]
    return steps, hints


def test_a_choice_of_ones_own_is_kept(launch: Any, tmp_path: Path) -> None:
    ran = launch(
        *(f"--template_location={tmp_path}/job.json", "--number_of_worker_harness_threads=5"),
        *("--experiments=use_multiple_sdk_containers", "--sdk_location=default"),
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    environment = json.loads((tmp_path / "job.json").read_text())["environment"]
    assert "no_use_multiple_sdk_containers" not in environment["experiments"]
    assert environment["workerPools"][0]["numThreadsPerWorker"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--worker_acelerator=type:nvidia-l4"], "--worker_acelerator: unknown"),
        (["--disc_size_gb=100"], "did you mean --disk_size_gb"),
        (["--machine_type"], "--machine_type: expected one argument"),
        (["--num_workers=30"], "num_workers (30) cannot exceed max_num_workers (20)"),
    ],
)
def test_wrong_flags_end_it_before_anything_is_uploaded(
    launch: Any, storage: str, tmp_path: Path, flags: list[str], message: str
) -> None:
    ran = launch("--dry-run", *flags)
    assert ran.returncode == 2, ran.stderr[-3000:]
    assert message in ran.stderr
    assert objects(storage, tmp_path.name) == {"photos"}


def test_a_store_that_workers_can_not_reach_is_refused(launch: Any, storage: str, tmp_path: Path) -> None:
    ran = launch(f"--template_location={tmp_path}/job.json", output=str(tmp_path / "store"))
    assert ran.returncode == 2
    assert f"found --output {tmp_path / 'store'}" in ran.stderr
    assert objects(storage, tmp_path.name) == {"photos"}
    assert not (tmp_path / "store").exists()
