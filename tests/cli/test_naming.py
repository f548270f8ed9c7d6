"""Messages name arguments in Python and options on the command line."""

import re
from pathlib import Path

import pytest
from vkdsurgeon_cli.main import run

import vkdsurgeon

LIBRARY = Path(vkdsurgeon.__file__).parent


@pytest.mark.parametrize(
    ("words", "arguments", "typed", "named"),
    [
        (["inspect", "MODEL", "--tower", "x"], {"tower": "x"}, "--tower: no such module", "`tower`: no such module"),
        (
            ["inspect", "MODEL", "--tower", "model.language_model"],
            {"tower": "model.language_model"},
            "--tower",
            "`tower`",
        ),
    ],
)
def test_one_message_under_two_names(
    llava: Path, capsys: pytest.CaptureFixture[str], words: list[str], arguments: dict[str, str], typed: str, named: str
):
    assert run([str(llava) if word == "MODEL" else word for word in words]) == 2
    told = capsys.readouterr().err
    assert typed in told
    assert "`tower`" not in told
    with pytest.raises(vkdsurgeon.UserError, match=named):
        vkdsurgeon.inspect(llava, **arguments)


def test_what_is_no_option_of_the_command_stays(capsys: pytest.CaptureFixture[str]):
    from vkdsurgeon_cli.naming import with_options

    assert run(["doctor", "--json"]) == 0
    capsys.readouterr()
    assert with_options("give `retain`, key `depth`; `as_json`") == "give `retain`, key `depth`; --json"


def test_no_room_of_the_library_speaks_of_options_that_are_arguments():
    # The command line's own words stay where a sentence is about the command.
    about_commands = re.compile(r"--(dry-run|decoder-pass|set|method)\b")
    found = []
    for room in ("attacks", "baselines", "comparison", "config", "evaluation", "pipeline", "training", "tuning"):
        for path in sorted((LIBRARY / room).rglob("*.py")):
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                if re.search(r'(where|expected|remedy)=f?"[^"]*--[a-z]{2}', about_commands.sub("", line)):
                    found.append(f"{path.relative_to(LIBRARY)}:{number}: {line.strip()}")
    assert not found
