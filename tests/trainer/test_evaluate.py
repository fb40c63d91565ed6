"""`lit-eval` from the command line to the report, with a stand-in store and run."""

import json
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from schemas.pairs import PAIRS_SCHEMA
from schemas.store import JoinedPart
from trainer import evaluate, train
from trainer.evaluations import subject

COLOURS = ("red", "green", "blue", "grey")


class ColourTower:
    """Embeds a text as the sum of its colours' axes, so every similarity is known."""

    max_text_length = 8
    compute_dtype = "float32"
    params = {"table": jnp.concatenate([jnp.eye(len(COLOURS)), jnp.full((1, len(COLOURS)), 0.01)])}  # noqa: RUF012

    def tokenizer(self, texts, max_length):
        words = [[COLOURS.index(w) for w in text.strip(".").split() if w in COLOURS] for text in texts]
        return np.array([(row + [len(COLOURS)] * max_length)[:max_length] for row in words], np.int32)

    def embed(self, params, tokens):
        return params["table"][tokens].sum(axis=1)


def part(name, colours, captions=None, labels=None, label_names=None, metadata=None):
    """A part of one-coloured images called <part>/<row>; a caption is a text, or a text and its language."""
    n = len(colours)
    embeddings = np.full((n, 1, len(COLOURS)), 0.1, np.float16)
    embeddings[np.arange(n), 0, [COLOURS.index(colour) for colour in colours]] = 2
    rows = [
        {
            "id": f"{name}/{row}",
            "captions": [
                {"text": caption}
                if isinstance(caption, str)
                else dict(zip(("text", "lang"), caption, strict=True))
                for caption in (captions[row] if captions else [f"a {colours[row]} square"])
            ],
            "metadata": metadata[row] if metadata else None,
            "labels": labels[row] if labels else [],
            "label_names": label_names[row] if label_names else [],
        }
        for row in range(n)
    ]
    sha = np.random.default_rng(n).integers(0, 256, (n, 32), dtype=np.uint8)
    pairs = pa.Table.from_pylist(rows, schema=PAIRS_SCHEMA)
    return JoinedPart(name, pa.array([row["id"] for row in rows]), sha, embeddings, pairs)


class Images:
    def __init__(self, parts, space_id="space", content_id="content"):
        self.parts = parts
        self.manifest = SimpleNamespace(space_id=space_id, content_id=content_id, tower_id="colour")

    def check(self):
        pass

    def iter_joined(self, columns=()):
        for one in self.parts:
            pairs = one.pairs.select(["id", *columns])
            yield JoinedPart(one.part, one.ids, one.image_sha256, one.embeddings, pairs)


class Store:
    path = "STORE"

    def __init__(self, images):
        self._images = images

    def tower_ids(self):
        return ["colour"]

    def images(self, tower_id):
        if tower_id != "colour":
            raise ValueError(f"--tower-id: must be a finished tower, found {tower_id}. Known: colour.")
        return self._images


@pytest.fixture
def lit_eval(monkeypatch, tmp_path, capsys):
    """Runs lit-eval on the given parts; returns (exit status, report or None, stdout, stderr)."""

    def call(command, parts, *flags, files=None, space_id="space", holdout=0.0, content_id="content"):
        for name, content in (files or {}).items():
            (tmp_path / name).write_text(content, encoding="utf-8")
        run = SimpleNamespace(
            text_tower=ColourTower(),
            step=7,
            space_id=space_id,
            content_id=content_id,
            mixed=(),
            config={"data": {"holdout_fraction": holdout, "holdout_by": "caption"}},
        )
        monkeypatch.setattr(subject, "open_store", lambda path, options: Store(Images(parts)))
        monkeypatch.setattr(subject, "load_run", lambda *arguments: run)
        output = tmp_path / "reports" / "report.json"
        words = [command, "--store", "STORE", "--output", str(output)]
        words += [str(tmp_path / word[1:]) if word.startswith("@") else word for word in flags]
        status = evaluate.main(words)
        found = json.loads(output.read_text(encoding="utf-8")) if output.exists() else None
        printed = capsys.readouterr()
        return status, found, printed.out, printed.err

    return call


CLASSES = {"classes.json": json.dumps(COLOURS), "templates.txt": "a {} square.\n{}\n"}
ZERO_SHOT = (
    "--run",
    "RUN",
    "--tower-id",
    "colour",
    "--classes",
    "@classes.json",
    "--templates",
    "@templates.txt",
)
RETRIEVAL = ("--run", "RUN", "--tower-id", "colour")


def test_zero_shot_from_integers_and_names(lit_eval):
    parts = [
        part("a", ["red", "green", "blue"], labels=[[0], [1], [3]]),
        part("b", ["grey", "red"], label_names=[["grey"], []]),
    ]
    status, found, out, _ = lit_eval("zero-shot", parts, *ZERO_SHOT, files=CLASSES)
    assert status == 0
    assert (found["top1"], found["top5"], found["n"], found["n_unlabelled"]) == (0.75, 1.0, 4, 1)
    assert found["mean_per_class"] == pytest.approx((1 + 1 + 0.5) / 3)
    assert found["n_classes"] == 4
    assert found["confusions"] == [
        {"label": 3, "predicted": 2, "name": "grey", "predicted_name": "blue", "n": 1},
    ]
    assert found["standard_error"]["top1"] == pytest.approx(np.sqrt(0.75 * 0.25 / 4))
    assert found["templates"] == ["a {} square.", "{}"]
    assert (found["space_id"], found["content_id"], found["tower_id"]) == ("space", "content", "colour")
    assert (found["run"], found["checkpoint_step"]) == ("RUN", 7)
    assert "cosine" in found["definition"]
    assert "scaled to length one again" in found["definition"]
    assert "jax" in found["versions"]
    assert "75.0 ±" in out
    assert "seen in training" in out


def test_zero_shot_options_reach_the_prompts(lit_eval):
    parts = [part("a", ["red", "green"], label_names=[["Red, crimson"], ["GREEN"]])]
    files = {"classes.json": json.dumps(["Red, crimson", "GREEN"]), "templates.txt": "A {} Square.\n"}
    flags = (*ZERO_SHOT, "--canonicalize", "--no-renormalize", "--aliases", "first")
    status, found, out, _ = lit_eval("zero-shot", parts, *flags, files=files, content_id="other")
    assert (status, found["top1"]) == (0, 1.0)
    assert found["templates"] == ["a {} square"]
    assert "not scaled to length one again" in found["definition"]
    assert (found["canonicalize"], found["renormalize"], found["aliases"]) == (True, False, "first")
    assert "seen in training" not in out


def test_classes_of_one_name_are_noted(lit_eval):
    parts = [part("a", ["red", "red"], labels=[[0], [1]])]
    status, found, out, _ = lit_eval(
        "zero-shot", parts, *ZERO_SHOT, files=CLASSES | {"classes.json": '["red", "red"]'}
    )
    assert (status, found["top1"]) == (0, 0.5)
    assert any("same prompts" in note and "'red' (classes 0, 1)" in note for note in found["notes"])
    assert "same prompts" in out


def test_retrieval_both_ways(lit_eval):
    parts = [
        part("a", ["red", "green"], captions=[["red", "a red thing"], ["green"]]),
        part("b", ["blue", "grey"], captions=[["red"], []]),
    ]
    status, found, out, _ = lit_eval("retrieval", parts, *RETRIEVAL)
    assert status == 0
    assert (found["n_images"], found["n_captions"], found["n_images_without_caption"]) == (3, 4, 1)
    assert found["n_shared_captions"] == 2
    # The blue image's caption says red: it finds the red image first, and ties with red's own captions.
    assert found["i2t"]["r1"] == pytest.approx(1 / 3)
    assert found["t2i"]["r1"] == pytest.approx(3 / 4)
    assert found["i2t"]["r5"] == found["t2i"]["r10"] == 1.0
    assert found["standard_error"]["t2i"]["r1"] == pytest.approx(np.sqrt(0.75 * 0.25 / 4))
    assert "Ties count against us" in found["definition"]
    assert found["checkpoint_step"] == 7
    assert "text → image" in out


def test_retrieval_with_templates_ids_and_underscores(lit_eval):
    parts = [part("a", ["red", "green"]), part("b", ["blue"])]
    files = {"t.txt": "one {}\nthe {}\n"}
    words = (
        "--run",
        "RUN",
        "--tower_id",
        "colour",
        "--templates",
        "@t.txt",
        "--ids",
        "a/*",
        "--batch_size",
        "3",
    )
    status, found, _, _ = lit_eval("retrieval", parts, *words, files=files)
    assert (status, found["n_images"], found["ids"], found["templates"]) == (
        0,
        2,
        "a/*",
        ["one {}", "the {}"],
    )
    assert found["t2i"]["r1"] == 1.0


def test_the_held_out_split_is_the_run_s(lit_eval):
    parts = [part("a", [COLOURS[n % 4] for n in range(40)], captions=[[f"caption {n}"] for n in range(40)])]
    counts = {}
    for split in ("all", "train", "heldout"):
        status, found, out, _ = lit_eval("retrieval", parts, *RETRIEVAL, "--split", split, holdout=0.3)
        assert (status, found["split"], found["holdout_fraction"]) == (0, split, 0.3)
        counts[split] = found["n_images"]
        assert ("seen in training" in out) == (split != "heldout")
    assert counts["train"] + counts["heldout"] == counts["all"] == 40
    assert 0 < counts["heldout"] < 25


def test_folds_are_searches_of_their_own(lit_eval):
    parts = [
        part("a", ["red", "green", "red"], captions=[["red", "green"], ["green"], ["green"]]),
        part("b", ["blue", "grey"], captions=[["blue"], ["grey"]]),
    ]
    status, found, out, _ = lit_eval("retrieval", parts, *RETRIEVAL, "--fold-size", "2")
    assert status == 0
    assert found["folds"]["n"] == 2
    assert (found["folds"]["size"], found["folds"]["left_out"]) == (2, 1)  # the last image fills no fold
    first, second = found["folds"]["each"]["t2i"]
    assert (first["r1"], second["r1"]) == (
        pytest.approx(2 / 3),
        0.5,
    )  # "green" of the red image; of the second red one
    assert found["t2i"]["r1"] == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert (found["n_images"], found["n_captions"]) == (4, 5)
    assert "each a search of its own" in found["definition"]
    assert "mean of 2 folds of 2 images" in out
    alone = lit_eval("retrieval", parts, *RETRIEVAL, "--ids", "a/[01]")[1]
    assert alone["t2i"]["r1"] == first["r1"]
    assert alone["i2t"]["r1"] == found["folds"]["each"]["i2t"][0]["r1"]
    whole = lit_eval("retrieval", parts, *RETRIEVAL, "--fold-size", "5")[1]
    plain = lit_eval("retrieval", parts, *RETRIEVAL)[1]
    assert (whole["t2i"], whole["i2t"]) == (plain["t2i"], plain["i2t"])
    assert "folds" not in plain
    status, _, _, err = lit_eval("retrieval", parts, *RETRIEVAL, "--fold-size", "6")
    assert status == 2
    assert "--fold-size: must be at most the number of images with a caption, 5" in err


def test_only_the_first_captions_and_only_one_split(lit_eval):
    parts = [
        part(
            "a",
            ["red", "green", "blue"],
            captions=[["red", "green", "x"], ["green", " ", "red"], ["blue"]],
            metadata=['{"split": "test", "n": 1}', '{"split": "val", "n": 1}', None],
        )
    ]
    _, found, _, _ = lit_eval("retrieval", parts, *RETRIEVAL, "--captions-per-image", "1")
    assert (found["n_captions"], found["t2i"]["r1"]) == (3, 1.0)
    for conditions, ids in (
        (["split=test"], 1),
        (["split=test", "split=val"], 2),
        (["split=val", "n=1"], 1),
    ):
        _, found, _, _ = lit_eval("retrieval", parts, *RETRIEVAL, "--where", *conditions)
        assert (found["n_images"], found["where"]) == (ids, conditions)
    status, _, _, err = lit_eval("retrieval", parts, *RETRIEVAL, "--where", "split=train")
    assert (status, "found 0 chosen images" in err) == (2, True)
    status, _, _, err = lit_eval("retrieval", parts, *RETRIEVAL, "--where", "split")
    assert (status, "--where: must be FIELD=VALUE" in err) == (2, True)


def test_each_language_by_itself(lit_eval):
    captions = [
        [("red", "en"), ("green", "de"), ("red", None)],
        [("green", "en"), ("green", "de")],
        [("blue", "en")],
    ]
    parts = [part("a", ["red", "green", "blue"], captions=captions)]
    status, found, out, _ = lit_eval("retrieval", parts, *RETRIEVAL, "--per-language")
    assert status == 0
    assert set(found["languages"]) == {"en", "de", "none"}
    english, german, unknown = (found["languages"][lang] for lang in ("en", "de", "none"))
    assert (english["t2i"]["r1"], english["n_images"], english["n_captions"]) == (1.0, 3, 3)
    assert (german["t2i"]["r1"], german["n_images"]) == (0.5, 2)  # only the images that have a German caption
    assert (unknown["n_images"], unknown["t2i"]["r1"]) == (1, 1.0)
    assert found["mean_over_languages"]["t2i"]["r1"] == pytest.approx(2.5 / 3)
    assert found["n_captions"] == 6
    assert "de t2i" in out
    _, found, _, _ = lit_eval("retrieval", parts, *RETRIEVAL, "--languages", "de", "none")
    assert (found["n_images"], found["n_captions"], found["n_images_without_caption"]) == (2, 3, 1)
    assert found["options"]["languages"] == ["de", "none"]


WNIDS = [{"class_index": n, "wnid": f"n{n}", "name": name} for n, name in enumerate(COLOURS)]


def test_some_classes_to_choose_from(lit_eval):
    """As for ImageNet-A and -R: labels of the whole list, or counted in the subset's own order."""
    parts = [part("a", ["red", "grey", "blue"], labels=[[0], [3], [2]])]
    files = CLASSES | {
        "classes.json": json.dumps(WNIDS),
        "subset.json": '["n3", "red"]',
        "templates.txt": "{}",
    }
    flags = (*ZERO_SHOT, "--class-subset", "@subset.json")
    status, found, out, _ = lit_eval("zero-shot", parts, *flags, files=files)
    assert status == 0
    assert (found["n"], found["n_outside_subset"], found["n_unlabelled"], found["n_classes"]) == (2, 1, 0, 2)
    assert found["top1"] == 1.0
    assert [(one["class_index"], one["name"]) for one in found["per_class"]] == [(3, "grey"), (0, "red")]
    assert "1 of no class to choose from" in out
    counted = [part("a", ["grey", "red", "red"], labels=[[0], [1], [0]])]
    _, found, _, _ = lit_eval("zero-shot", counted, *flags, "--labels-count", "subset", files=files)
    assert found["top1"] == pytest.approx(2 / 3)
    assert found["confusions"] == [
        {"label": 3, "predicted": 0, "name": "grey", "predicted_name": "red", "n": 1}
    ]
    status, _, _, err = lit_eval("zero-shot", parts, *flags, "--labels-count", "subset", files=files)
    assert (status, "integer labels must be 0..1, found [2, 3]" in err) == (2, True)
    status, _, _, err = lit_eval("zero-shot", parts, *ZERO_SHOT, "--labels-count", "subset", files=files)
    assert (status, "--labels-count subset: must have" in " ".join(err.split())) == (2, True)
    by_wnid = [part("a", ["red", "grey"], label_names=[["n0"], ["n3"]])]
    _, found, _, _ = lit_eval("zero-shot", by_wnid, *ZERO_SHOT, "--class-subset", "seen", files=files)
    assert (found["n_classes"], found["n"], found["top1"]) == (2, 2, 1.0)


def test_labels_from_a_file(lit_eval):
    """As for ImageNet-ReaL: several labels an image, none for some, the store's own labels unused."""
    parts = [part("val", ["red", "green", "blue", "grey"], labels=[[3], [3], [3], [3]])]
    files = CLASSES | {
        "real.json": json.dumps({"val/0": [0], "val/1": [2, 1], "val/2": [], "val/3": ["red"]})
    }
    status, found, _, _ = lit_eval("zero-shot", parts, *ZERO_SHOT, "--labels", "@real.json", files=files)
    assert (status, found["n"], found["n_unlabelled"]) == (0, 3, 1)
    assert found["top1"] == pytest.approx(2 / 3)
    # Class green and blue have the second image each, red the first (a hit) and the fourth (a miss).
    assert found["mean_per_class"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert found["standard_error"]["mean_per_class"] == pytest.approx(np.sqrt(0.5 * 0.5 / 2) / 3)
    numbered = [part("val_0000", ["green", "red"])]  # ids val_0000/0 and val_0000/1
    files = CLASSES | {"real.json": "[[0], [1]]"}
    status, _, _, err = lit_eval("zero-shot", numbered, *ZERO_SHOT, "--labels", "@real.json", files=files)
    assert (status, "ids must end in a number from 1 to 2" in err) == (2, True)
    flags = (*ZERO_SHOT, "--labels", "@real.json", "--ids", "*/1")
    _, found, _, _ = lit_eval("zero-shot", numbered, *flags, files=files)
    assert (found["n"], found["top1"]) == (1, 1.0)


def test_few_shot_needs_no_run(lit_eval):
    parts = [part("a", list(COLOURS) * 4, labels=[[n % 4] for n in range(16)])]
    status, found, out, _ = lit_eval("few-shot", parts, "--shots", "1", "2", "--seeds", "2")
    assert status == 0
    assert found["accuracy"] == {"1": 1.0, "2": 1.0}
    assert (found["n"], found["n_classes"], found["l2"]) == (16, 4, 1024.0)
    assert "2 shots" in out
    status, _, _, err = lit_eval("few-shot", parts, "--shots", "4")
    assert status == 2
    assert "leave none of 16" in err


LABELLED = [part("a", ["red", "green"], labels=[[0], [1]])]


@pytest.mark.parametrize(
    ("command", "parts", "flags", "options", "message"),
    [
        ("retrieval", LABELLED, RETRIEVAL, {"space_id": "x" * 64}, "space_id: the run's text tower must be"),
        ("retrieval", LABELLED, ("--run", "RUN", "--tower-id", "no"), {}, "Known: colour"),
        ("retrieval", LABELLED, (*RETRIEVAL, "--ids", "none*"), {}, "at least one image with a caption"),
        ("retrieval", LABELLED, (*RETRIEVAL, "--split", "heldout"), {}, "--split heldout: the run must"),
        (
            "retrieval",
            LABELLED,
            (*RETRIEVAL, "--templates", "@no.txt"),
            {},
            "--templates: must be a readable",
        ),
        (
            "zero-shot",
            LABELLED,
            (*ZERO_SHOT, "--ids", "none*"),
            {},
            "at least one labelled image; found 0 chosen",
        ),
        ("zero-shot", [part("a", ["red"])], ZERO_SHOT, {}, "found 1 chosen images, none with a label"),
        ("zero-shot", [part("a", ["red"], labels=[[4]])], ZERO_SHOT, {}, r"class indices 0..3; found [4]"),
        (
            "zero-shot",
            [part("a", ["red"], label_names=[["ruby"]])],
            ZERO_SHOT,
            {},
            "1 unknown in one part: ['ruby']",
        ),
        (
            "zero-shot",
            LABELLED,
            ("--run", "RUN", "--classes", "@no.json"),
            {},
            "--classes: must be a readable",
        ),
    ],
)
def test_what_a_user_gets_wrong_is_one_message_and_status_2(
    lit_eval, command, parts, flags, options, message
):
    status, found, out, err = lit_eval(command, parts, *flags, files=CLASSES, **options)
    assert (status, found, out) == (2, None, "")
    assert err.startswith("lit-eval: ")
    assert message in err


@pytest.mark.parametrize(("words", "status"), [(["--help"], 0), (["retrieval"], 2), (["nonsense"], 2)])
def test_usage(words, status, capsys):
    assert evaluate.main(words) == status
    printed = capsys.readouterr()
    assert ("lit-eval retrieval --run RUN" in printed.out) == (status == 0)


WORDS = ("red", "green", "blue", "large", "small", "round", "flat", "old")


@pytest.fixture
def trained(write_store, row, tmp_path):
    """A real store of 24 images in two parts, and a tiny run that held a third of their captions out."""
    rows = []
    for i, first in enumerate(WORDS):
        for j in range(1, 4):
            second = WORDS[(i + j) % 8]
            vectors = [(np.eye(8)[i] + 0.5 * np.eye(8)[(i + j) % 8]).tolist()]
            rows.append(row(f"{first}-{second}", vectors, (f"{first} {second}",)))
    store = write_store([rows[:14], rows[14:]])
    tiny = "--text-width 16 --text-depth 1 --text-heads 2 --text-mlp 16 --vocab-size 64 --max-text-length 4"
    flags = f"{tiny} --batch-size 12 --steps 60 --learning-rate 1e-2 --holdout-fraction 0.3 --no-tensorboard"
    places = ["--store", store, "--output", str(tmp_path / "run"), "--spool-dir", str(tmp_path / "spool")]
    assert train.main([*places, *flags.split()]) == 0
    return store, str(tmp_path / "run")


def test_a_real_run_on_a_real_store(trained, write_store, row, tmp_path, capsys):
    store, run = trained
    report = tmp_path / "report.json"
    words = ["retrieval", "--run", run, "--store", store, "--output", str(report)]
    found = {}
    for split in ("all", "train", "heldout"):
        assert evaluate.main([*words, "--split", split]) == 0
        found[split] = json.loads(report.read_text(encoding="utf-8"))
    trained_on = json.loads((tmp_path / "run" / "provenance.json").read_text(encoding="utf-8"))["rows"]
    assert found["train"]["n_images"] == trained_on
    assert found["heldout"]["n_images"] == 24 - trained_on > 0
    assert found["all"]["checkpoint_step"] == 60
    assert found["train"]["i2t"]["r1"] >= 0.9
    other = write_store([[row("a", [[1.0] * 8], ("red",))]], name="other", weights="random:1")
    capsys.readouterr()
    assert evaluate.main([*words[:3], "--store", other, "--output", str(report)]) == 2
    assert "space_id: the run's text tower must be evaluated in the space" in capsys.readouterr().err
    assert evaluate.main([*words[:3], "--store", store, "--output", str(report), "--tower-id", "none"]) == 2
    assert "Known: tower" in capsys.readouterr().err
    assert evaluate.main([*words[:3], "--store", str(tmp_path / "no"), "--output", str(report)]) == 2
    assert "--store: must be a folder made by lit-embed" in capsys.readouterr().err
    assert evaluate.main([*words, "--step", "61"]) == 2
    assert evaluate.main(["retrieval", "--run", str(tmp_path), *words[3:]]) == 2
    assert "must be a folder made by lit-train" in capsys.readouterr().err
