"""The images and the template fit the code they hold, as far as that shows without building them."""

import importlib.util
import json
import re
import shlex
from pathlib import Path
from types import ModuleType
from typing import Any

import apache_beam
import pytest
import tyro

from lit_precompute.config import EmbedConfig
from pipelines.beam_flags import _every_option, flag_names

REPO = Path(__file__).resolve().parents[2]
DEPLOY = REPO / "deploy" / "dataflow"


@pytest.fixture(scope="module")
def dockerfile() -> str:
    return (DEPLOY / "Dockerfile").read_text()


@pytest.fixture(scope="module")
def metadata() -> dict[str, Any]:
    return json.loads((DEPLOY / "metadata.json").read_text())


@pytest.fixture(scope="module")
def launch() -> ModuleType:
    spec = importlib.util.spec_from_file_location("launch", DEPLOY / "launch.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def beams_flags() -> set[str]:
    return {flag for action in _every_option()._actions for flag in action.option_strings}


def parse(arguments: list[str]) -> EmbedConfig:
    """As the command does it; flags that nobody knows are an error."""
    config, rest = tyro.cli(
        EmbedConfig, args=arguments, return_unknown_args=True, config=(tyro.conf.OmitArgPrefixes,)
    )
    assert _every_option().parse_known_args(rest)[1] == []
    return config


def test_the_images_have_the_beam_this_is_tested_with(dockerfile: str) -> None:
    assert f"ARG BEAM={apache_beam.__version__}" in dockerfile


def test_every_image_that_is_documented_can_be_built(dockerfile: str) -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", dockerfile, re.MULTILINE)
    assert {"cpu", "cuda", "tpu", "launcher"} <= set(stages)
    bases = re.findall(r"--from=(\w+)", dockerfile)
    assert set(bases) <= set(stages)


def test_all_packages_are_in_the_image_and_sent_to_be_built(dockerfile: str) -> None:
    setup = (REPO / "setup.py").read_text()
    listed = re.search(r"packages=\[(.*?)\]", setup, re.DOTALL)
    assert listed is not None
    packages = {name.split(".")[0] for name in re.findall(r'"([\w.]+)"', listed.group(1))}
    assert packages == set(re.findall(r"^COPY (\w+) \w+$", dockerfile, re.MULTILINE))
    sent = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", dockerfile, re.MULTILINE)
    for name in " ".join(copied).split():
        assert f"!{name}" in sent


def test_the_template_asks_for_flags_that_exist(metadata: dict[str, Any]) -> None:
    names = [parameter["name"] for parameter in metadata["parameters"]]
    assert len(set(names)) == len(names)
    for parameter in metadata["parameters"]:
        assert set(parameter) <= {"name", "label", "helpText", "isOptional", "regexes"}
        assert all(re.compile(expression) for expression in parameter.get("regexes", []))
        flag = "--" + parameter["name"]
        known = flag.replace("_", "-") in flag_names(EmbedConfig) or flag in beams_flags()
        assert known or flag == "--flags"
    required = {one["name"] for one in metadata["parameters"] if not one.get("isOptional")}
    assert required == {"input", "tower", "checkpoint", "output", "sdk_container_image"}


def test_a_template_is_started_as_a_command_is(metadata: dict[str, Any], launch: ModuleType) -> None:
    """With the parameters of a template and the options that a launcher adds."""
    values = {
        "input": "gs://b/photos",
        "format": "folder",
        "tower": "vit",
        "checkpoint": "gs://b/weights.npz",
        "output": "gs://b/store",
        "batch_size": "128",
        "dataflow_service_options": "worker_accelerator=type:nvidia-l4;count:1;install-nvidia-driver:5xx",
        "preset": "",
        "flags": "--accept-damaged --caption-column title text --disk_size_gb 100",
    }
    parameters = {one["name"]: one for one in metadata["parameters"]}
    for name, value in values.items():
        for expression in parameters[name].get("regexes", []):
            assert re.search(expression, value)
    added = ["--runner=DataflowRunner", "--project=p", "--region=r", "--job_name=j"]
    added += ["--temp_location=gs://b/t", "--staging_location=gs://b/s", "--template_location=gs://b/j.json"]
    config = parse(launch.arguments([f"--{name}={value}" for name, value in values.items()] + added))
    assert config.source.input == ("gs://b/photos",)
    assert config.source.caption_column == ("title", "text")
    assert (config.work.batch_size, config.limits.accept_damaged) == (128, True)


@pytest.mark.parametrize("page", ["runners.md", "dataflow.md"])
def test_documented_commands_have_flags_that_exist(page: str) -> None:
    text = (REPO / "docs" / page).read_text().replace("\\\n", " ")
    commands = [line.strip() for line in text.splitlines() if line.strip().startswith("lit-embed ")]
    assert commands
    for command in commands:
        words = shlex.split(command, comments=True)[1:]
        words = words[: words.index("--")] if "--" in words else words
        if "..." in words:  # what the reader's own job adds
            words[words.index("...") : words.index("...") + 1] = shlex.split(
                "--input gs://b/in --format folder --tower vit --checkpoint gs://b/w.npz --output gs://b/store"
            )
        parse(words)
