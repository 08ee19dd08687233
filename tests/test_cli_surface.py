"""The options of the command line, frozen: a new one is a change that somebody reviews.

``python tests/test_cli_surface.py`` writes cli_surface.json anew.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import zoo.cli
from zoo_cli import VERBS, main, parser_of

FILE = Path(__file__).with_name("cli_surface.json")


def surface() -> dict[str, Any]:
    """Each verb's arguments with what decides how they are read."""
    found: dict[str, Any] = {}
    for verb in VERBS:
        found[verb] = {}
        for action in parser_of(verb)._actions[1:]:
            facts = {
                "kind": type(action).__name__.strip("_").removesuffix("Action").lower(),
                "nargs": action.nargs,
                "type": getattr(action.type, "__name__", None),
                "choices": action.choices and list(action.choices),
                "default": None if action.default is None else str(action.default),
                "required": action.required or None,
            }
            name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
            found[verb][name] = {key: value for key, value in facts.items() if value is not None}
    return found


def text() -> str:
    """A line an argument, so that a change is a line."""
    blocks = []
    for verb, arguments in surface().items():
        lines = [f"    {json.dumps(name)}: {json.dumps(facts)}" for name, facts in arguments.items()]
        blocks.append(f"  {json.dumps(verb)}: {{\n" + ",\n".join(lines) + "\n  }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def test_verbs_and_options_are_those_that_were_agreed_on() -> None:
    assert json.loads(text()) == surface()
    assert FILE.read_text(encoding="ascii") == text(), f"if this is meant: python {Path(__file__).name}"


def test_every_argument_is_explained() -> None:
    for verb in VERBS:
        parser = parser_of(verb)
        assert parser.epilog, verb
        assert f"  zoo {verb}" in parser.epilog
        assert all(action.help for action in parser._actions), verb


def test_words_that_are_nearly_right_are_known(capsys: pytest.CaptureFixture[str]) -> None:
    for words, message in {
        "bnech": "unknown verb 'bnech': did you mean bench? (see zoo --help)",
        "zzz": "unknown verb 'zzz' (see zoo --help)",
        "": "a verb is missing (see zoo --help)",
        "--verison": "unknown option --verison: did you mean --version? (see zoo --help)",
        "bench --seed 3": "unknown option --seed: did you mean --seeds or --set? (see zoo bench --help)",
        "bench --zzz=3": "unknown option --zzz=3 (see zoo bench --help)",
        "list a b": "too many arguments: b (see zoo list --help)",
        "info": "the following arguments are required: NAME (see zoo info --help)",
        "bench --epochs x": "argument --epochs: invalid int value: 'x' (see zoo bench --help)",
        "speed a --layout b": "argument --layout: invalid choice: 'b' (choose from",
        "recipes digit": "unknown recipe 'digit': did you mean digits?",
        "bench lenet_test --recipe wide_resnet_cifr": "'wide_resnet_cifr': did you mean wide_resnet_cifar",
    }.items():
        assert main(words.split()) == 2, words
        captured = capsys.readouterr()
        [line] = captured.err.splitlines()
        assert line.startswith("zoo: error: ")
        assert message in line
        assert captured.out == ""


@pytest.mark.parametrize("words", ["--help", "--version", "bench --help", "bench --seed 3", "bnech", "report"])
def test_help_and_wrong_words_are_answered_without_torch(words: str) -> None:
    code = (
        "import sys\nfrom zoo_cli import main\n"
        "try:\n    status = main(sys.argv[1:])\nexcept SystemExit as stop:\n    status = stop.code\n"
        "assert not {'torch', 'zoo', 'timm', 'numpy', 'tabulate'} & sys.modules.keys()\nsys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=False)
    right = "--help" in words or "--version" in words
    assert done.returncode == (0 if right else 2), done.stderr
    assert len(done.stderr.splitlines()) == (0 if right else 1)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"{zoo.__version__}\n"


def test_the_old_way_to_call_the_command_is_still_there() -> None:
    assert zoo.cli.main is main


if __name__ == "__main__":
    FILE.write_text(text(), encoding="ascii")
