"""Prompts: canonical text, template and class files, the order of prompts."""

import json

import pytest

from trainer.evals import prompts


@pytest.fixture(scope="module")
def golden(golden_dir):
    return json.loads((golden_dir / "evaluators" / "prompts.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("kept", "keep"), [("none", None), ("comma", ","), ("braces", "{}")])
def test_canonical_text_is_the_reference_s(golden, kept, keep):
    for text, expected in golden["canonicalize_text"].items():
        assert prompts.canonicalize_text(text, keep) == expected[kept]


def test_canonical_names_and_templates_are_the_reference_s(golden):
    names = [prompts.canonicalize_class_name(name) for name in golden["class_names_in"]]
    assert names == golden["class_names_canonical"]
    for name, raw in golden["templates_raw"].items():
        assert [prompts.canonicalize_template(line) for line in raw] == golden["templates_canonical"][name]


@pytest.mark.parametrize(("aliases", "expected"), [("first", "first_only"), ("all", "aliases")])
def test_prompt_order_is_the_reference_s(golden, aliases, expected):
    templates = golden["templates_canonical"]["clip_best"]
    made = prompts.make_prompts(golden["class_names_canonical"], templates, aliases)
    pairs = [list(pair) for pair in zip(made.class_index.tolist(), made.texts, strict=True)]
    assert pairs == golden["prompts_clip_best"][expected]
    assert made.n_classes == len(golden["class_names_in"])


def test_a_name_is_taken_whole_and_literally_unless_asked():
    made = prompts.make_prompts(["shark, great {} one"], ["a {}."])
    assert made.texts == ("a shark, great {} one.",)


def test_templates_are_lines_with_one_slot():
    assert prompts.parse_templates("a {}.\n\n  the {}  \r\n", "t.txt") == ("a {}.", "the {}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a {}.\nno slot\n{} and {}", r"t.txt: .*line 2 has 0: 'no slot'; line 3 has 2: '\{\} and \{\}'"),
        ("\n \n", "at least one template"),
    ],
)
def test_a_wrong_template_file_is_refused_by_line(text, message):
    with pytest.raises(ValueError, match=message):
        prompts.parse_templates(text, "t.txt")


def test_classes_by_position_or_by_index():
    by_index = [{"class_index": 1, "name": "dog", "wnid": "x"}, {"class_index": 0, "name": "cat"}]
    assert prompts.parse_classes('["cat", "dog"]', "c.json") == ("cat", "dog")
    assert prompts.parse_classes(json.dumps(by_index), "c.json") == ("cat", "dog")


def _entry(index, name="x"):
    return {"class_index": index, "name": name}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([_entry(0), _entry(1), _entry(1)], r"repeated: \[1\], missing: none, highest: 1 among 3"),
        ([_entry(0), _entry(2)], r"missing: \[1\]"),
        ([_entry(-1), _entry(0)], r"missing: \[1\]"),
        ([_entry(0), {"name": "y"}], "entry 1 must be an object with an integer class_index"),
        ([_entry(0), "y"], "entry 1 must be an object"),
        ([_entry(True)], "entry 0"),
        (["a", 3, None], "non-empty string; found 1: 3; 2: None"),
        (["a", " "], "non-empty string; found 1: ' '"),
        (["a", _entry(1)], "non-empty string"),
        ([_entry(0, 5)], "non-empty string; found 0: 5"),
        ([], "non-empty JSON list"),
        ({"a": 0}, "non-empty JSON list"),
    ],
)
def test_a_wrong_class_file_is_refused(entries, message):
    with pytest.raises(ValueError, match=rf"c\.json: .*{message}"):
        prompts.parse_classes(json.dumps(entries), "c.json")


def test_a_file_that_is_not_json_is_refused():
    with pytest.raises(ValueError, match=r"c\.json: must be JSON"):
        prompts.parse_classes("tench\ngoldfish", "c.json")


def test_classes_of_equal_prompts_are_named():
    made = prompts.make_prompts(["crane", "dog", "crane, the bird"], ["a {}", "{}"], "first")
    assert prompts.inseparable_classes(made) == [[0, 2]]
    assert prompts.inseparable_classes(prompts.make_prompts(["a", "b"], ["{}"])) == []


def test_missing_files_are_refused_by_flag(tmp_path):
    with pytest.raises(ValueError, match="--classes: must be a readable"):
        prompts.read_classes(str(tmp_path / "none.json"))
    with pytest.raises(ValueError, match="--templates: must be a readable"):
        prompts.read_templates(str(tmp_path / "none.txt"))
    assert prompts.read_templates(None) == ("{}",)
