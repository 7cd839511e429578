"""Recipes: what they say is what commands take, in a chain; and wrong lines are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from discedit_onnx.cli import COMMANDS, cli, print_recipe
from discedit_onnx.cli.print_recipe import NOT_STEPS
from discedit_onnx.cli.recipes import Recipe, steps
from discedit_onnx.cli.run import command as run_command

ROOT = Path(__file__).parents[1]
STEPS = [name for name in COMMANDS if name not in NOT_STEPS]


def planned(text, path="recipe.toml"):
    """The command lines of a recipe."""
    recipe = Recipe(path, text, tomllib.loads(text))
    with click.Context(cli) as outer, click.Context(run_command, outer) as ctx:
        return [(step.name, *step.arguments) for step in steps(recipe, cli, ctx)]


def test_steps_are_chained():
    text = """
        model = "m.onnx"
        data = "d"
        seed = 3
        [calibrate]
        [prune]
        sparsity = 0.2
        output = "p.onnx"
        force = true
        [forget]
        class = ["cat", 4]
        no-refit = true
        keep-head = false
        output = "f.onnx"
        [check]
        data = "t"
        max-drop = 0.01
        [verify-forget]
        data = "t"
        class = "cat"
    """
    assert planned(text) == [
        ("calibrate", "--data=d", "--seed=3", "--", "m.onnx"),
        ("prune", "--data=d", "--seed=3", "--moments=m.moments.safetensors", "--sparsity=0.2",
         "--output=p.onnx", "--force", "--", "m.onnx"),
        ("forget", "--data=d", "--seed=3", "--class=cat", "--class=4", "--no-refit",
         "--output=f.onnx", "--", "p.onnx"),
        ("check", "--data=t", "--seed=3", "--against=m.onnx", "--max-drop=0.01", "--", "f.onnx"),
        ("verify-forget", "--data=t", "--seed=3", "--class=cat", "--", "m.onnx", "f.onnx"),
    ]  # fmt: skip


def test_a_plan_goes_from_a_dry_run_to_apply():
    text = """
        model = "m.onnx"
        [prune]
        sparsity = 0.2
        dry-run = true
        output = "p.json"
        [apply]
        output = "p.onnx"
        [diff]
        a = "m.onnx"
        b = "p.onnx"
    """
    lines = planned(text)
    assert lines[1] == ("apply", "--output=p.onnx", "--", "p.json", "m.onnx")
    assert lines[2] == ("diff", "--", "m.onnx", "p.onnx")


def test_lists_where_a_command_takes_commas():
    text = '[calibrate]\nmodel = "m"\ndata = "d"\nfeatures = ["max", "positive"]\n'
    assert "--features=max,positive" in planned(text)[0]


def test_another_against_than_a_model_is_left_alone():
    """`score --against` names classes, and no step before it does."""
    text = """
        model = "m.onnx"
        [prune]
        sparsity = 0.1
        output = "p.onnx"
        [score]
        data = "d"
        class = ["cat"]
        [evaluate]
        data = "d"
    """
    _, score, evaluate = planned(text)
    assert not any(word.startswith("--against") for word in score)
    assert "--against=m.onnx" in evaluate


WRONG = [
    ('\n\n[prun]\nsparsity = 1\n', 3, "[prun] is no step; there are "),
    ('[demo]\n', 1, "[demo] is no step"),
    ('model = "m"\n', 1, "no steps"),
    ('model = "m"\nsparsety = 1\n[prune]\n', 2, "no step has such an option"),
    ('[prune]\n# one\nsparsety = 1\n', 3, "[prune] has no sparsety; it has model, data"),
    ('model = "m"\n[prune]\nrounds = 0\noutput="o"\n', 3, "0 is not in the range"),
    ('model = "m"\n[prune]\noutput="o"\nranking = """\nlocale\n"""\n', 4, "locale"),
    ('model = "m"\n[prune]\noutput = "o"\n"rounds" = [\n1,\n2]\n', 4, "takes one value"),
    ('model = "m"\n[prune]\noutput = "o"\nforce = 1\n', 4, "give true or false"),
    ('model = "m"\n[prune]\noutput = true\n', 3, "takes no true or false"),
    ('model = "m"\n[prune]\noutput = 2020-01-01\n', 3, "give a text, a number"),
    ('rounds = "few"\nmodel = "m"\n[prune]\noutput = "o"\n', 1, "'few' is not a valid integer"),
    ('model = "m"\n\n[prune]\nsparsity = 0.1\n', 3, "--output"),
    ('[prune]\nsparsity = 0.1\n', 1, "does not say which model"),
    ('model = "m"\n[forget]\nclass = 1\n[check]\n', 2, "name its output"),
    ('model = "m"\n[score]\nwitness = "nobody"\n', 3, "nobody"),
    ('model = "m"\n[check]\nmin-accuracy = nan\n', 3, "nan is not a finite number"),
    ('model = "m"\n[[prune]]\nsparsity = 0.1\n', 2, "is an array of tables"),
    ('model = "m"\n[forget]\nclass = 1\nforce = true\noutput = "./m"\n', 5, "overwrite m,"),
    ('model = "m"\ndata = "d.npz"\n[prune]\nsparsity = 0.1\noutput = "d.npz"\n', 5,
     "overwrite d.npz"),
    ('model="m"\n[prune]\nsparsity=0.1\noutput="p"\n[forget]\nclass=1\noutput="m"\n', 7,
     "[forget] would overwrite m"),
    ('model="m"\n[prune]\nsparsity=0.1\noutput="p"\n[forget]\nclass=1\noutput="p"\n', 7,
     "[forget] would overwrite p"),
    ('model="m"\n[prune]\nsparsity=0.1\noutput="p"\n[check]\nmax-size="1MB"\njunit="p"\n', 5,
     "[check] would overwrite p"),
    ('prune.sparsity = 1\nprune.model = "m"\nprune.outptu = "o"\n', 3, "has no outptu"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "line", "words"), WRONG)
def test_what_is_wrong_is_told_with_its_line(run, tmp_path, monkeypatch, text, line, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.toml").write_text(text)
    result = run("run", "r.toml")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith(f"error: r.toml:{line}: ")
    assert words in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "content", [b"[prune\n", b"\xff\xfe", b"a = " + b"[" * 5000 + b"]" * 5000, None]
)
def test_what_is_no_recipe(run, tmp_path, content):
    path = tmp_path / "r.toml"
    if content is not None:
        path.write_bytes(content)
    result = run("run", path)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert content != b"[prune\n" or "line 1" in result.stderr


TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


@given(TEXTS | st.lists(TEXTS) | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False))
def test_values_are_written_as_toml_reads_them(value):
    assert tomllib.loads(f"x = {print_recipe._toml(value)}")["x"] == value


LINES = [
    ["prune", "m.onnx", "--sparsity", "30%", "-o", "o.onnx", "--only", "a*", "--only", "b", "-q"],
    ["forget", "m.onnx", "--class", "dress,3", "--class", "4", "--no-refit", "--strength", "0.5"],
    ["calibrate", "m.onnx", "--data", 'a "folder"\\', "--features", "max,positive", "--json"],
    ["check", "m.onnx", "--no-github", "--forgotten", "a:b:0.1", "--max-size", "5MB"],
    ["check", "m.onnx", "--github", "--max-drop", "0.01"],
    ["apply", "p.json", "m.onnx", "-o", "-x.onnx"],
    ["inspect", "--operators"],
    ["diff", "a.onnx", "b.onnx"],
    ["evaluate", "m.onnx", "--data", "d", "--labels", "given"],
    ["score", "m.onnx", "--pairs", "--witness", "t1", "--confidence", "0.95"],
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: " ".join(line[:3]))
def test_a_printed_recipe_repeats_its_command(run, line):
    result = run(*line, "--print-recipe")
    assert result.exit_code == 0, result.stderr
    ((name, *arguments),) = planned(result.stdout)
    again = run(name, "--print-recipe", *arguments)
    assert again.stdout == result.stdout
    command = cli.get_command(click.Context(cli), name)
    first, second = (
        command.make_context(name, list(words)).params for words in (line[1:], arguments)
    )
    assert first == second


def test_what_the_environment_sets_is_printed_too(run, monkeypatch):
    monkeypatch.setenv("DISCEDIT_DEVICE", "cpu")
    text = run("evaluate", "m.onnx", "--data", "d", "--print-recipe").stdout
    assert tomllib.loads(text)["evaluate"] == {"model": "m.onnx", "data": "d", "device": "cpu"}


@pytest.mark.parametrize("name", STEPS)
def test_each_step_can_print_itself(run, name):
    assert "--print-recipe" in run(name, "--help").stdout
    assert "--print-recipe" not in run("demo", "--help").stdout


@pytest.fixture
def folder(few, moments, tmp_path, monkeypatch):
    shutil.copy(few / "fashion_resnet20.onnx", tmp_path / "m.onnx")
    shutil.copy(moments, tmp_path / "m.moments.safetensors")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(few, size):
    return f"""
        model = "m.onnx"
        [prune]
        sparsity = 0.1
        criterion = "l1"
        output = "p.onnx"
        [check]
        data = '{few / "fashion_mnist/test"}'
        max-drop = 0.9
        max-size = "{size}"
    """


def test_a_recipe_gives_what_its_commands_give(run, few, folder):
    (folder / "r.toml").write_text(recipe(few, "2MB"))
    result = run("run", "r.toml")
    assert result.exit_code == 0, result.stderr
    assert "$ discedit-onnx prune --sparsity=0.1" in result.stdout
    assert run("prune", "m.onnx", "--sparsity", "0.1", "--criterion", "l1",
               "-o", "q.onnx").exit_code == 0  # fmt: skip
    assert (folder / "p.onnx").read_bytes() == (folder / "q.onnx").read_bytes()
    again = run("run", "r.toml")
    assert again.exit_code == 2
    assert "p.onnx: exists already" in again.stderr


def test_a_gate_that_fails_ends_the_recipe(run, few, folder):
    (folder / "r.toml").write_text(recipe(few, "1kB"))
    result = run("run", "r.toml", "--json")
    assert result.exit_code == 5
    assert [found["step"] for found in json.loads(result.stdout)] == ["prune", "check"]
    assert json.loads(result.stdout)[1]["result"]["passed"] is False


def test_nothing_begins_where_a_later_step_is_wrong(run, folder):
    text = 'model = "m.onnx"\n[prune]\nsparsity = 0.1\noutput = "p.onnx"\n[check]\nmin-accuracy=2\n'
    (folder / "r.toml").write_text(text)
    result = run("run", "r.toml")
    assert result.exit_code == 2
    assert "r.toml:6: " in result.stderr
    assert not (folder / "p.onnx").exists()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell):
    result = run("completion", shell)
    assert result.exit_code == 0
    assert "_DISCEDIT_ONNX_COMPLETE" in result.stdout
    program = shutil.which(shell)
    if program is not None:
        checked = [program, "--no-execute" if shell == "fish" else "-n"]
        subprocess.run(checked, input=result.stdout, text=True, check=True)
    words = {"COMP_WORDS": "discedit-onnx che", "COMP_CWORD": "1" if shell != "fish" else "che"}
    environment = {**words, "_DISCEDIT_ONNX_COMPLETE": f"{shell}_complete"}
    found = CliRunner().invoke(cli, [], prog_name="discedit-onnx", env=environment)
    assert "check" in found.stdout
    assert "calibrate" not in found.stdout


@pytest.mark.parametrize(
    ("step", "value", "says"),
    [
        ("forget", 'level = "heads"', "no level 'heads'; there are output, head, features"),
        ("forget", 'method = "lace"', "no method 'lace'"),
        ("forget", "strength = -1", "strength -1 is below 0"),
        ("forget", "max-drop = 200", "--max-drop 200 is not in"),
        ("forget", 'round-to = "x"', "--round-to x: give a number"),
        ("prune", "sparsity = 7", "sparsity 7"),
        ("prune", 'criterion = "fischer"', "fischer"),
        ("verify-forget", 'require = "depth"', "--require depth: no such level"),
        ("calibrate", 'shard = "3/2"', "3/2"),
    ],
)
def test_values_that_commands_check_are_told_with_their_line(run, tmp_path, step, value, says):
    needed = {
        "forget": 'class = "3"',
        "verify-forget": 'class = "3"\noriginal = "a.onnx"\nedited = "e.onnx"',
    }
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'model = "m.onnx"\ndata = "d"\noutput = "o.onnx"\n[inspect]\n'
        f"[{step}]\n{needed.get(step, '')}\n{value}\n"
    )
    result = run("run", recipe)
    assert (result.exit_code, result.stdout) == (2, "")
    line = recipe.read_text().splitlines().index(value) + 1
    assert result.stderr.startswith(f"error: {recipe}:{line}: [{step}] ")
    assert says in result.stderr
