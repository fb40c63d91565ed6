"""Fetches what the engines' tests run: Prism and the job servers, once, into a folder.

    python tests/pipelines/engines/fetch.py FOLDER

Maven and Go check what they fetch against the checksums their registries publish. A job server is the ready-made jar
of this Beam where the repository has it, else one of Beam 2.62 put together from its parts: they speak the same
protocol. What can not be had is said and left out; its tests skip.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import apache_beam

BEAM = apache_beam.__version__
POM = Path(__file__).with_name("pom.xml")

# engine: (ready-made artifact of this Beam, main class of the parts)
JOB_SERVERS = {
    "flink": ("beam-runners-flink-1.20-job-server", "org.apache.beam.runners.flink.FlinkJobServerDriver"),
    "spark": ("beam-runners-spark-3-job-server", "org.apache.beam.runners.spark.SparkJobServerDriver"),
}


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for engine in JOB_SERVERS:
        if not (folder / f"{engine}.jar").exists():
            _report(engine, _ready_made(folder, engine) or _put_together(folder, engine))
    if not (folder / "prism").exists():
        _report("prism", _prism(folder))


def _ready_made(folder: Path, engine: str) -> bool:
    artifact = f"org.apache.beam:{JOB_SERVERS[engine][0]}:{BEAM}"
    get = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy"
    found = _run(
        *("mvn", "-B", "-q", "--strict-checksums", get, f"-Dartifact={artifact}"),
        *("-DoutputDirectory=" + str(folder / "ready-made"), "-Dmdep.useBaseVersion=true"),
    )
    if not found:
        return False
    jar = folder / "ready-made" / f"{JOB_SERVERS[engine][0]}-{BEAM}.jar"
    jar.replace(folder / f"{engine}.jar")
    return True


def _put_together(folder: Path, engine: str) -> bool:
    """A jar that holds nothing but the paths of its parts."""
    parts, partial = folder / f"{engine}-parts", folder / f"{engine}-parts.partial"
    shutil.rmtree(partial, ignore_errors=True)
    copy = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
    found = _run(
        *("mvn", "-B", "-q", "--strict-checksums", "-f", str(POM), f"-P{engine}", copy),
        *("-DincludeScope=runtime", f"-DoutputDirectory={partial}"),
    )
    if not found:
        return False
    shutil.rmtree(parts, ignore_errors=True)
    partial.rename(parts)
    paths = [path.resolve().as_uri() for path in sorted(parts.glob("*.jar"))]
    manifest = [
        "Manifest-Version: 1.0",
        *_folded("Class-Path: " + " ".join(paths)),
        "Main-Class: " + JOB_SERVERS[engine][1],
    ]
    with zipfile.ZipFile(folder / f"{engine}.jar", "w") as jar:
        jar.writestr("META-INF/MANIFEST.MF", "\r\n".join(manifest) + "\r\n\r\n")
    return True


def _folded(line: str) -> list[str]:
    """A manifest's lines are 72 bytes at most and go on after a space."""
    return [line[:72], *(" " + line[start : start + 71] for start in range(72, len(line), 71))]


def _prism(folder: Path) -> bool:
    """Built from source by the Go toolchain: some minutes, once."""
    package = f"github.com/apache/beam/sdks/v2/go/cmd/prism@v{BEAM}"
    return _run("env", f"GOBIN={folder.resolve()}", "go", "install", package)


def _run(*command: str) -> bool:
    if shutil.which(command[0]) is None:
        print(f"{command[0]}: not found", file=sys.stderr)
        return False
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        print("\n".join(lines[:3]), file=sys.stderr)
    return done.returncode == 0


def _report(engine: str, found: bool) -> None:
    print(f"{engine}: {'ready' if found else 'could not be fetched; its tests will skip'}", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
