"""`lit-eval`: what a tuned text tower is worth, from cached image embeddings.

The run's text tower embeds prompts or captions; the store gives the image side. No pixel is read and no image
tower is loaded.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from schemas.exit_status import exit_status
from trainer.evaluations import EVALUATIONS, run_evaluation
from trainer.evaluations.align import AlignConfig, run_align
from trainer.evaluations.few_shot import FewShotConfig
from trainer.evaluations.pairs import PairsConfig
from trainer.evaluations.retrieval import RetrievalConfig
from trainer.evaluations.suite import SuiteConfig, run_suite
from trainer.evaluations.table import TableConfig, run_table
from trainer.evaluations.zero_shot import ZeroShotConfig
from trainer.report.command import ReportConfig, run_report

DESCRIPTION = """Evaluates a text tower tuned by lit-train on image embeddings cached by lit-embed.

  lit-eval retrieval --run RUN --store STORE --tower-id ID --output retrieval.json
  lit-eval zero-shot --run RUN --store STORE --tower-id ID --classes classes.json \\
      --templates templates.txt --output zero_shot.json
  lit-eval all --run RUN --suite suite.yaml
  lit-eval table RUN OTHER_RUN
  lit-eval report RUN
  lit-eval align --store STORE

Exit status: 0 done, 2 usage or refused, 3 some evaluations of a suite failed.
"""

Command = (
    Annotated[ZeroShotConfig, tyro.conf.subcommand("zero-shot")]
    | Annotated[RetrievalConfig, tyro.conf.subcommand("retrieval")]
    | Annotated[FewShotConfig, tyro.conf.subcommand("few-shot")]
    | Annotated[PairsConfig, tyro.conf.subcommand("pairs")]
    | Annotated[SuiteConfig, tyro.conf.subcommand("all")]
    | Annotated[TableConfig, tyro.conf.subcommand("table")]
    | Annotated[ReportConfig, tyro.conf.subcommand("report")]
    | Annotated[AlignConfig, tyro.conf.subcommand("align")]
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""

    def work() -> int:
        config: Any = tyro.cli(
            Command,
            args=list(sys.argv[1:] if argv is None else argv),
            prog="lit-eval",
            description=DESCRIPTION,
            config=(tyro.conf.OmitArgPrefixes,),
        )
        return COMMANDS[type(config)](config)

    return exit_status("lit-eval", work)


def _one(kind: str) -> Callable[[Any], int]:
    """The command that runs one evaluation and shows what came of it."""

    def run(config: Any) -> int:
        found, output = run_evaluation(kind, config)
        print(EVALUATIONS[kind].show(found))
        print(f"\nwritten to {output}")
        return 0

    return run


COMMANDS: dict[type, Callable[[Any], int]] = {
    **{evaluation.config: _one(kind) for kind, evaluation in EVALUATIONS.items()},
    SuiteConfig: run_suite,
    TableConfig: run_table,
    ReportConfig: run_report,
    AlignConfig: run_align,
}


if __name__ == "__main__":
    sys.exit(main())
