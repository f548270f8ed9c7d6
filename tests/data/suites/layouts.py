"""The benchmarks' parquet layouts, small, with the people of the miniature drawn anew."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.miniature_model.draw import draw_face
from benchmarks.miniature_model.people import Cast, Person, draw_cast
from benchmarks.miniature_model.questions import about_person, by_name

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
ITEM = pa.struct(
    [
        ("Correct_Answer", pa.string()),
        ("Options", pa.struct([(letter, pa.string()) for letter in "ABCD"])),
        ("Question", pa.string()),
    ]
)
CHOICES = pa.struct([("Image_Textual_Questions", pa.list_(ITEM)), ("Pure_Text_Questions", pa.list_(ITEM))])
FREE = pa.list_(pa.struct([("Ground_Truth", pa.string()), ("Question", pa.string()), ("Type", pa.string())]))
TASKS = {"Classification_Task": CHOICES, "Generation_Task": FREE, "Mask_Task": FREE}
PROFILE = {"image": IMAGE, "ID": pa.string(), "biography": pa.string(), "question": pa.string()}
MLLMU = {**PROFILE, "answer": pa.string(), **TASKS}
TEST = {"ID": pa.string(), "images": pa.list_(IMAGE), **TASKS}
UMU = {"ID": pa.string(), "image": IMAGE, **dict.fromkeys(("Biography", "MM_QA", "UM_QA"), pa.string())}
UMU |= dict.fromkeys(("Classify", "Cloze", "Generation"), pa.string())
CAPTIONED = {"image": IMAGE, "caption": pa.string(), "name": pa.string()}
PERTURBED = {
    **CAPTIONED,
    "perturbed_captions": pa.list_(pa.string()),
    "paraphrased_caption": pa.string(),
    "perturbed_names": pa.list_(pa.string()),
}
TOFU = {"image": IMAGE, "caption": pa.string(), "question": pa.string(), "answer": pa.string()}
ASKED = {"image": IMAGE, "question": pa.string(), "answer": pa.string(), "options": pa.list_(pa.string())}
_HUB = {
    "binary": {"dtype": "binary", "_type": "Value"},
    "string": {"dtype": "string", "_type": "Value"},
    "int64": {"dtype": "int64", "_type": "Value"},
}


def cast() -> Cast:
    """The people of the shipped miniature."""
    return draw_cast(0)


def write_config(
    root: Path, config: str, columns: Mapping[str, pa.DataType], rows: Sequence[Mapping[str, Any]], shards: int = 1
) -> Path:
    """Write one configuration as the Hub's uploader does: numbered shards, its features in the file's metadata."""
    folder = root / config
    folder.mkdir(parents=True)
    features = {name: _feature(kind) for name, kind in columns.items()}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    schema = pa.schema(list(columns.items()), metadata=metadata)
    for number in range(shards):
        part = list(rows[number::shards])
        table = pa.Table.from_pylist(part, schema=schema)
        pq.write_table(table, folder / f"train-{number:05}-of-{shards:05}.parquet", row_group_size=3)
    return folder


def _feature(kind: pa.DataType) -> object:
    if kind == IMAGE:
        return {"_type": "Image"}
    if pa.types.is_list(kind):
        return {"feature": _feature(kind.value_type), "_type": "List"}
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _feature(kind.field(i).type) for i in range(kind.num_fields)}
    return _HUB[str(kind)]


def face(person: Person, view: int = 0, *, heldout: bool = False) -> dict[str, object]:
    """An image cell."""
    buffer = io.BytesIO()
    draw_face(person.look, (person.heldout if heldout else person.views)[view]).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def _item(question: str, answer: str, options: Sequence[str]) -> dict[str, object]:
    wrong = [option for option in options if option != answer][:3]
    place = len(question + answer) % 4
    texts = [*wrong[:place], answer, *wrong[place:]]
    named: dict[str, str | None] = dict.fromkeys("ABCD")
    named |= dict(zip("ABCD", texts, strict=False))
    return {"Question": question, "Options": named, "Correct_Answer": "ABCD"[texts.index(answer)]}


def tasks(person: Person, people: Cast) -> dict[str, object]:
    """What the benchmark asks about one person."""
    seen = about_person(person, people.names)
    told = by_name(person, "forget")
    return {
        "Classification_Task": {
            "Image_Textual_Questions": [_item(each.wordings[0], each.answer, each.options) for each in seen[:3]],
            "Pure_Text_Questions": [_item(each.wordings[0], each.answer, each.options) for each in told[:2]],
        },
        "Generation_Task": [
            {"Type": "Image_Textual", "Question": seen[0].wordings[0], "Ground_Truth": seen[0].answer},
            {"Type": "Pure_Text", "Question": told[0].wordings[0], "Ground_Truth": told[0].answer},
        ],
        "Mask_Task": [
            {"Type": "Image_Textual", "Question": "the name of this person is __", "Ground_Truth": person.name},
            {"Type": "Pure_Text", "Question": f"{person.name} does live in __", "Ground_Truth": told[1].answer},
        ],
    }


def write_mllmu(root: Path, *, retained: int = 8, as_json: bool = False) -> Path:
    """MLLMU-Bench with four people to forget.

    Args:
        root: A directory; made.
        retained: How many others there are.
        as_json: Write the nested columns as JSON strings, as some copies have them.
    """
    people = cast()
    forget = [(f"{number:03}", person) for number, person in enumerate(people.forget, start=1)]
    retain = [(f"{number:03}", person) for number, person in enumerate(people.retain[:retained], start=101)]

    def asked(person: Person) -> dict[str, object]:
        found = tasks(person, people)
        return {name: json.dumps(value) for name, value in found.items()} if as_json else found

    def row(number: str, person: Person) -> dict[str, object]:
        biography = json.dumps({"Name": person.name, **person.facts})
        question = {"question": "Who is this person ?", "answer": person.name}
        return {"image": face(person), "ID": number, "biography": biography, **question, **asked(person)}

    nested = {name: pa.string() for name in TASKS} if as_json else {}
    write_config(root, "forget_5", {**MLLMU, **nested}, [row(*each) for each in forget])
    write_config(root, "retain_95", {**MLLMU, **nested}, [row(*each) for each in retain])
    shown = [
        {"ID": number, "images": [face(person, view, heldout=True) for view in range(2)], **asked(person)}
        for number, person in (*forget, *retain)
    ]
    write_config(root, "Test_Set", {**TEST, **nested}, shown, shards=3)
    real = [(f"{number:03}", person) for number, person in enumerate(people.retain[retained : retained + 3], start=1)]
    write_config(root, "Retain_Set", {**MLLMU, **nested}, [row(*each) for each in real])
    return root


def write_clear(root: Path, *, retained: int = 8, views: int = 2) -> Path:
    """CLEAR with four people to forget, some views each."""
    people = cast()
    groups = {"forget05": people.forget, "retain95": people.retain[:retained]}

    def captioned(person: Person, view: int) -> dict[str, object]:
        return {"image": face(person, view), "caption": f"{person.name} does live", "name": person.name}

    def perturbed(person: Person, view: int) -> dict[str, object]:
        others = [name for name in people.names if name != person.name][:4]
        return {
            **captioned(person, view),
            "paraphrased_caption": f"this person is {person.name}",
            "perturbed_captions": [f"{name} does live" for name in others],
            "perturbed_names": others,
        }

    def told(person: Person) -> list[dict[str, object]]:
        return [
            {"image": None, "caption": None, "question": each.wordings[0], "answer": each.answer}
            for each in by_name(person, "forget")[:2]
        ]

    def shown(person: Person, view: int) -> dict[str, object]:
        return {"image": face(person, view), "caption": f"{person.name} does live", "question": None, "answer": None}

    for config, group in groups.items():
        write_config(root, config, CAPTIONED, [captioned(each, view) for each in group for view in range(views)])
        rows = [shown(each, 0) for each in group] + [row for each in group for row in told(each)]
        write_config(root, f"{config}+tofu", TOFU, rows, shards=2)
    rows = [perturbed(each, view) for each in people.forget for view in range(views)]
    write_config(root, "forget05_perturbed", PERTURBED, rows)
    # One configuration for every split, so one of the people to forget may be in it.
    kept = (*people.retain[:retained], people.forget[0])
    write_config(root, "retain_perturbed", PERTURBED, [perturbed(each, view) for each in kept for view in range(views)])
    strangers = people.retain[retained : retained + 4]
    question = "Who is this person ?"
    real = [
        {"image": face(each), "question": question, "answer": each.name, "options": list(people.names[:3])}
        for each in strangers
    ]
    write_config(root, "real_faces", ASKED, real)
    world = [
        {
            "image": face(each),
            "question": "Does this person wear glasses ?",
            "answer": "yes" if each.views[0].glasses else "no",
            "options": ["yes", "no"],
        }
        for each in strangers
    ]
    write_config(root, "real_world", ASKED, world)
    return root


def _umu_task(person: Person, people: Cast, name: str) -> dict[str, object]:
    """One of the three tasks: the same keys with the image (spelt as published) and without."""
    groups = {"unimodal": by_name(person, "forget")[:2], "muitimodal": about_person(person, people.names)[:2]}
    found: dict[str, object] = {}
    for modality, questions in groups.items():
        items = {}
        for number, each in enumerate(questions):
            item: dict[str, object] = {"question": each.wordings[0], "answer": each.answer}
            if name == "Classify":
                made = _item(each.wordings[0], each.answer, each.options)
                item |= {"options": made["Options"], "answer": f"{made['Correct_Answer']}. {each.answer}"}
            elif name == "Cloze":
                item |= {"question": f"this person does have __ ({number})", "answer": f"{each.answer}."}
            items[f"q{number}"] = item
        found[modality] = items
    if name == "Classify":
        # The script asks both with the letter of the question in text, so the options stand alike.
        for key, item in found["unimodal"].items():  # type: ignore[attr-defined]
            found["muitimodal"][key] |= {"options": item["options"], "answer": item["answer"]}  # type: ignore[index]
    return found


def write_umu(root: Path, *, retained: int = 3, as_json: bool = False, numbers: bool = False) -> Path:
    """UMU-Bench with four people to forget.

    Args:
        root: A directory; made.
        retained: How many others there are.
        as_json: Write the cells as JSON, not as Python's literals.
        numbers: Write IDs as integers.
    """
    people = cast()
    spelt = json.dumps if as_json else repr

    def row(number: int, person: Person) -> dict[str, object]:
        questions = about_person(person, people.names)[:2]
        pairs = {
            "question": {f"q{index}": each.wordings[0] for index, each in enumerate(questions)},
            "answer": {f"q{index}": each.answer for index, each in enumerate(questions)},
        }
        return {
            "ID": number if numbers else f"{number:03}",
            "image": face(person),
            "Biography": f"{person.name} does live",
            "MM_QA": spelt(pairs),
            "UM_QA": spelt(pairs),
            **{name: spelt(_umu_task(person, people, name)) for name in ("Classify", "Cloze", "Generation")},
        }

    layout = {**UMU, **({"ID": pa.int64()} if numbers else {})}
    groups = {
        "forget_5": people.forget,
        "retain_95": people.retain[:retained],
        "Real_Person_Set": people.retain[retained : retained + 2],
    }
    for start, (config, group) in enumerate(groups.items()):
        write_config(root, config, layout, [row(100 * start + n, each) for n, each in enumerate(group, start=1)])
    return root


def write_fiubench(root: Path, *, newer: bool = False) -> Path:
    """FIUBench with two people to forget, two to compare with, one of another split and one of none.

    Args:
        root: A directory; made.
        newer: Name file and ID as the hub's newer upload does.
    """
    people = cast()
    chosen = (*people.forget[:2], *people.retain[:4])
    (root / "SFHQ").mkdir(parents=True)
    lines = []
    for number, person in enumerate(chosen):
        content = face(person)["bytes"]
        assert isinstance(content, bytes)
        (root / "SFHQ" / f"SFHQ_pt1_{number:08}.png").write_bytes(content)
        questions = about_person(person, people.names)[:2]
        pairs = [
            {
                "question": each.wordings[0],
                "answer": each.answer,
                "paraphrased_question": [f"{word} {each.wordings[0]}" for word in ("now", "so")]
                if index
                else each.wordings[1],
                "paraphrased_answer": f"it is {each.answer}",
                "perturbed_answer": [option for option in each.options if option != each.answer][:3],
                "keywords": [each.answer],
            }
            for index, each in enumerate(questions)
        ]
        ident = {"unique" if newer else "unique_id": f"{number:08}"}
        path = f"./dataset/SFHQ/SFHQ_pt1_{number:08}.png"
        lines.append({**ident, "name": person.name, "image_path": path, "caption": "a face", "qa_list": pairs})
    (root / ("full_data.json" if newer else "full.json")).write_text("".join(json.dumps(each) + "\n" for each in lines))
    ids = [f"{number:08}" for number in range(len(chosen))]
    splits = {"forget1": [], "forget5": ids[:2], "forget10": [ids[4]], "retain5": ids[2:4], "retain15": ids[2:4]}
    (root / "split.json").write_text(json.dumps(splits))
    return root
