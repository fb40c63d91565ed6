"""The evaluations by name: one file each, from its options to its report."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.evals import report
from trainer.evaluations.few_shot import FewShotConfig, evaluate_few_shot, show_few_shot
from trainer.evaluations.pairs import PairsConfig, evaluate_pairs, show_pairs
from trainer.evaluations.retrieval import RetrievalConfig, evaluate_retrieval, show_retrieval
from trainer.evaluations.subject import TextSide, default_output
from trainer.evaluations.zero_shot import ZeroShotConfig, evaluate_zero_shot, show_zero_shot
from trainer.run_directory import hand_back

__all__ = ["EVALUATIONS", "Evaluation", "run_evaluation"]


@dataclass(frozen=True)
class Evaluation:
    """A kind of evaluation.

    Attributes:
        config: the class of its options.
        evaluate: (options, text tower or None) → report, a JSON object.
        show: report → a few lines for a terminal.
    """

    config: type[Any]
    evaluate: Callable[[Any, TextSide | None], dict[str, Any]]
    show: Callable[[dict[str, Any]], str]


EVALUATIONS = {
    "zero-shot": Evaluation(ZeroShotConfig, evaluate_zero_shot, show_zero_shot),
    "retrieval": Evaluation(RetrievalConfig, evaluate_retrieval, show_retrieval),
    "few-shot": Evaluation(FewShotConfig, evaluate_few_shot, show_few_shot),
    "pairs": Evaluation(PairsConfig, evaluate_pairs, show_pairs),
}


def run_evaluation(kind: str, config: Any, text: TextSide | None = None) -> tuple[dict[str, Any], str]:
    """Evaluates and writes the report; gives it, and where it lies.

    Args:
        kind: a key of `EVALUATIONS`.
        config: its options.
        text: the run's text tower, where it is loaded already.

    Raises:
        ValueError: for inputs that do not fit together; asked before the work whether the report can be written.
    """
    output = config.output or default_output(config, kind)
    report.check_output(output)
    found = EVALUATIONS[kind].evaluate(config, text)
    report.write_report(found, output)
    if not config.output:
        beside = [Path(output).with_name(found["file"])] if "file" in found else []
        output = hand_back(config.run, [Path(output), *(file for file in beside if file.exists())])[0]
    return found, output
