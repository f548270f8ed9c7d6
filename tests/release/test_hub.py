"""Models by their name on the hub: from the local cache alone, a path wins, and the record says which one it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants
from vkdsurgeon_cli.main import run

import vkdsurgeon
from tests.release.conftest import RECIPE
from tests.release.test_attest import validate
from vkdsurgeon.config.release import load_release
from vkdsurgeon.errors import UserError
from vkdsurgeon.files.copy import digest
from vkdsurgeon.files.hub import hub_source, model_path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ABSENT = "org/absent"


@pytest.fixture
def snapshot(llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny checkpoint as `hf download org/tiny` leaves it: links into a store, and a branch that names a commit."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    owner = cache / "models--org--tiny"
    folder = owner / "snapshots" / COMMIT
    for path in (owner / "blobs", owner / "refs", folder):
        path.mkdir(parents=True)
    (owner / "refs" / "main").write_text(COMMIT)
    for file in llava.iterdir():
        blob = owner / "blobs" / digest(file)
        shutil.copyfile(file, blob)
        (folder / file.name).symlink_to(blob)
    return folder


def test_a_name_is_found_in_the_cache_and_a_path_wins(
    snapshot: Path, llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert model_path("org/tiny") == model_path(f"org/tiny@{COMMIT}") == model_path("org/tiny@main") == snapshot
    assert vkdsurgeon.inspect("org/tiny").bytes == vkdsurgeon.inspect(llava).bytes
    assert hub_source(snapshot) == {"id": "org/tiny", "revision": COMMIT}
    assert hub_source(llava) is None
    work = tmp_path / "work"
    shutil.copytree(llava, work / "org" / "tiny")
    monkeypatch.chdir(work)
    assert model_path("org/tiny") == Path("org/tiny")
    # What cannot be a name on the hub is a path, and is told as one.
    for path in ("absent", "/org/absent", "a/b/c", "../tiny"):
        assert model_path(path) == Path(path)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (ABSENT, f"hf download {ABSENT}"),
        (f"{ABSENT}@v1", f"hf download {ABSENT} --revision v1"),
        ("org/tiny@v2", "hf download org/tiny --revision v2"),
        ("org/--bad", "hf download org/--bad"),
    ],
)
def test_what_is_not_in_the_cache_names_the_line_that_fetches_it(
    snapshot: Path, capsys: pytest.CaptureFixture[str], given: str, line: str
) -> None:
    assert run(["inspect", given, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["what"].startswith("no such directory")
    assert given in error["value"]
    assert error["remedy"].endswith(f"fetch it first: {line}")


def test_every_argument_for_a_model_takes_a_name(snapshot: Path, llava: Path, sets: dict[str, Path]) -> None:
    """Told by the error: only the one place that knows names gives it."""
    asked = sets["forget"].with_name("asked.jsonl")
    rows = [json.loads(line) for line in sets["forget"].read_text().splitlines()]
    asked.write_text("".join(json.dumps({**row, "question": "Who?", "answer": row["subject"]}) + "\n" for row in rows))
    it, out, sets_, sets = str(llava), "out", {"forget": asked}, {"forget": asked, "retain": asked}
    calls: list[Callable[[], object]] = [
        lambda: vkdsurgeon.unlearn(ABSENT, sets["forget"], out),
        lambda: vkdsurgeon.unlearn(it, sets["forget"], out, forget_teacher=ABSENT),
        lambda: vkdsurgeon.unlearn(it, sets["forget"], out, retain_teacher=ABSENT),
        lambda: vkdsurgeon.run_method("ga", ABSENT, sets["forget"], out),
        lambda: vkdsurgeon.evaluate(ABSENT, sets_),
        lambda: vkdsurgeon.evaluate(it, sets_, base=ABSENT),
        lambda: vkdsurgeon.evaluate(it, sets_, gold=ABSENT),
        lambda: vkdsurgeon.attack("restore", ABSENT, sets["forget"], base=it),
        lambda: vkdsurgeon.attack("restore", it, sets["forget"], base=ABSENT),
        lambda: vkdsurgeon.attack("restore", it, sets["forget"], base=it, gold=ABSENT),
        lambda: vkdsurgeon.tune(ABSENT, sets["forget"], out),
        lambda: vkdsurgeon.compare(ABSENT, "vkd", sets["forget"], sets["retain"], out),
        lambda: vkdsurgeon.compare(it, "vkd", sets["forget"], sets["retain"], out, gold=ABSENT),
        lambda: vkdsurgeon.inspect(ABSENT),
        lambda: vkdsurgeon.diff(ABSENT, it),
        lambda: vkdsurgeon.diff(it, ABSENT),
        lambda: vkdsurgeon.export_patch(ABSENT, it, out),
        lambda: vkdsurgeon.export_patch(it, ABSENT, out),
        lambda: vkdsurgeon.patch_checkpoint(ABSENT, "fix.safetensors", out),
        lambda: vkdsurgeon.patch_checkpoint(ABSENT, "fix.safetensors", None),
        lambda: vkdsurgeon.verify(ABSENT),
        lambda: vkdsurgeon.verify(it, base=ABSENT),
        lambda: vkdsurgeon.attest(ABSENT, [], out),
        lambda: vkdsurgeon.reproduce(ABSENT, it, sets["forget"]),
        lambda: vkdsurgeon.reproduce(it, ABSENT, sets["forget"]),
    ]
    for call in calls:
        with pytest.raises(UserError, match=f"hf download {ABSENT}"):
            call()


def test_a_release_file_names_models_likewise(snapshot: Path, llava: Path, tmp_path: Path) -> None:
    keys = ("out", "forget", "retain", "forget_heldout", "retain_heldout", "text")
    path = tmp_path / "release.yaml"

    def write(**models: str) -> Path:
        path.write_text(yaml.safe_dump({**dict.fromkeys(keys, "x"), **models}))
        return path

    assert load_release(write(model="org/tiny", gold=f"org/tiny@{COMMIT}")).gold == snapshot
    # A path beside the file wins over the cache.
    shutil.copytree(llava, tmp_path / "org" / "tiny")
    assert load_release(write(model="org/tiny")).model == tmp_path / "org" / "tiny"
    for models in ({"model": ABSENT}, {"model": "x", "gold": ABSENT}):
        with pytest.raises(UserError, match=f"hf download {ABSENT}"):
            load_release(write(**models))
    plan = load_release(write(model="x"))
    with pytest.raises(UserError, match=f"hf download {ABSENT}"):
        vkdsurgeon.make_release(plan.model_copy(update={"gold": Path(ABSENT)}))


def test_the_record_says_which_and_what_follows_uses_it(
    snapshot: Path, llava: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "patched"
    vkdsurgeon.unlearn("org/tiny", sets["forget"], out, retain=sets["retain"], recipe=RECIPE)
    record = json.loads((out / "vkdsurgeon.json").read_text())
    assert record["base"]["hub"] == {"id": "org/tiny", "revision": COMMIT}
    assert not [path for path in out.iterdir() if path.is_symlink()]
    assert vkdsurgeon.verify(out, base="org/tiny").passed
    (tmp_path / "diff.json").write_text(vkdsurgeon.diff("org/tiny", out).model_dump_json())
    vkdsurgeon.attest(out, [tmp_path / "diff.json"], tmp_path / "statements", card=True)
    _, provenance, bom = validate(tmp_path / "statements")
    url = f"pkg:huggingface/org/tiny@{COMMIT}"
    first, second, *_ = provenance["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert first == {"uri": url, "digest": {"gitCommit": COMMIT}}
    assert second["name"].startswith("org/tiny/")
    (ancestor,) = bom["metadata"]["component"]["pedigree"]["ancestors"]
    assert (ancestor["name"], ancestor["purl"]) == ("org/tiny", url)
    assert yaml.safe_load((out / "README.md").read_text().split("---\n")[1])["base_model"] == "org/tiny"
    # The same base at another place makes the same bytes; only its name is missing in the new record.
    again = vkdsurgeon.reproduce(out, llava, sets["forget"], retain=sets["retain"])
    assert (again.grade, again.files_differing) == ("bytes", [])


def test_a_dry_run_looks_at_the_output_of_a_name_too(
    snapshot: Path, sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["unlearn", "org/tiny", "--forget", str(sets["forget"]), "--retain", str(sets["retain"]), "--follow-links"]
    words += ["--dry-run", "-o"]
    assert run([*words, str(tmp_path / "new")]) == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("")
    assert run([*words, str(tmp_path / "full")]) == 2
    assert "not empty" in capsys.readouterr().err
