"""The published template sets, held against the reference's lists."""

import json
from pathlib import Path

from trainer.evals.prompts import canonicalize_template, read_templates
from trainer.evals.template_sets import TEMPLATE_SETS

REFERENCE = {"class_name_only": "none", "clip_paper": "clip-80-and-name", "clip_best": "clip-7-and-name"}


def test_they_are_the_reference_s(golden_dir: Path) -> None:
    golden = json.loads((golden_dir / "evaluators" / "prompts.json").read_text(encoding="utf-8"))
    for reference, ours in REFERENCE.items():
        assert sorted(read_templates(ours)) == sorted(golden["templates_raw"][reference])
        canonical = list(map(canonicalize_template, TEMPLATE_SETS[ours]))
        assert sorted(canonical) == sorted(golden["templates_canonical"][reference])


def test_their_sizes_and_forms() -> None:
    assert {name: len(templates) for name, templates in TEMPLATE_SETS.items()} == {
        "none": 1,
        "clip-80": 80,
        "clip-80-and-name": 81,
        "clip-7": 7,
        "clip-7-and-name": 8,
    }
    assert all(template.count("{}") == 1 for templates in TEMPLATE_SETS.values() for template in templates)
    assert set(TEMPLATE_SETS["clip-7"]) < set(TEMPLATE_SETS["clip-80"])
    assert read_templates(None) == ("{}",)
