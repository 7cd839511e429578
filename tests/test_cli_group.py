"""The command line as a whole: what it loads, how it ends, what it prints where."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import resource
import shlex
import subprocess
import sys

import click
import pytest

from discedit_onnx.cli import COMMANDS, SECTIONS, cli
from discedit_onnx.cli import inspect as inspect_module
from discedit_onnx.editing.criteria import DATA_FREE, ENERGY, defaults
from discedit_onnx.editing.forgetting.components import Amount
from discedit_onnx.editing.forgetting.way import UNSEEN
from discedit_onnx.scoring.saliency import DEFAULT_WITNESS
from discedit_onnx.scoring.witness import WITNESSES

PROGRAM = [sys.executable, "-m", "discedit_onnx"]
HEAVY = ("numpy", "onnx", "onnxruntime", "rich", "scipy", "PIL", "onnx_graphsurgeon")


def shown(command, stream, **options):
    """What a command that succeeds writes to a stream that is a terminal, and to its output."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(command, **{stream: theirs}, **options) as process:
        os.close(theirs)
        seen = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 65536):
                seen += part
        printed = process.stdout.read() if process.stdout else b""
    os.close(ours)
    assert process.returncode == 0
    return seen, printed


def test_help_loads_nothing_heavy_and_answers_at_once():
    code = "\n".join(
        [
            "import sys",
            "from discedit_onnx.cli import cli",
            "for arguments in (['--help'], *([name, '--help'] for name in sys.argv[1:])):",
            "    try: cli(arguments)",
            "    except SystemExit as end: assert not end.code",
            f"print([name for name in {HEAVY} if name in sys.modules])",
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *COMMANDS], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    seconds = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([*PROGRAM, "--help"], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3


def test_help_lists_every_command(run):
    result = run("-h")
    assert result.exit_code == 0
    listed = result.stdout.split(f"{next(iter(SECTIONS))}:")[1]
    assert re.findall(r"^  ([\w-]+) +\S", listed, re.M) == list(COMMANDS)
    assert re.findall(r"^(\w.*):$", listed, re.M) == list(SECTIONS)[1:]
    assert not any(len(line) > 80 for line in listed.splitlines())
    assert run().stdout == result.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_variable_is_named_like_its_option(name):
    command = cli.get_command(click.Context(cli), name)
    options = [found for found in command.params if isinstance(found, click.Option)]
    for option in options:
        names = {text.lstrip("-") for text in option.opts if text.startswith("--")}
        variable = option.envvar or f"DISCEDIT_{option.name.upper()}"
        assert variable in {f"DISCEDIT_{n.replace('-', '_').upper()}" for n in names}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(run, name):
    result = run(name, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: discedit-onnx {name} ")


@pytest.mark.parametrize("name", [*COMMANDS, "moments show", "moments merge"])
def test_help_ends_in_examples_that_can_be_read(run, name):
    text = run(*name.split(), "--help").stdout
    lines = [line.strip() for line in text.split("\n  Examples:\n")[1].splitlines()]
    assert lines
    for line in lines:
        assert line.startswith(f"discedit-onnx {name}")
        words = shlex.split(line.partition(" > ")[0])[1:]
        group = cli
        while isinstance(group, click.Group):
            word = words.pop(0)
            group = group.get_command(click.Context(group), word)
        group.make_context(word, words)


def test_help_names_what_the_library_has(run):
    """Defaults and choices are written out, so that help loads no library; they must agree."""
    text = " ".join(run("prune", "-h").stdout.split())
    assert f"({', '.join(WITNESSES)}); {ENERGY}; {', '.join(DATA_FREE)}" in text
    chosen = (defaults(None, None, data)[0] for data in (True, False))
    assert "[default: {} with --data alone, else {}]".format(*chosen) in text
    text = " ".join(run("forget", "-h").stdout.split())
    shares = f"{Amount().value:g}; of --remove, found with --data, else {UNSEEN.value:g}"
    assert f"[default: {shares}]" in text
    assert f"[default: {DEFAULT_WITNESS}]" in text


def test_version(run):
    assert re.fullmatch(r"discedit-onnx, version \d+\.\d+\.\d+\S*\n", run("--version").stdout)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prun"], "No such command 'prun'"),
        (["prune"], "Missing argument 'MODEL'. See discedit-onnx prune --help"),
        (["prune", "m.onnx", "-o", "x"], "--sparsity"),
        (["prune", "m.onnx", "-o", "x", "--sparsity", "much"], "sparsity much: give a share"),
        (["calibrate", "m.onnx", "--data", "d", "--batch-size", "0"], "0 is not in the range x>=1"),
        (["calibrate", "m.onnx", "--data", "d", "--seed", "-1"], "-1 is not in the range x>=0"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_wrong_options_are_told_in_one_line(run, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert words in result.stderr


def test_options_come_from_the_environment(run, few, monkeypatch):
    monkeypatch.setenv("DISCEDIT_JSON", "1")
    assert json.loads(run("inspect", few / "fashion_vgg.onnx").stdout)["parameters"] == 315434


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "interrupted: "),
        (ValueError("two\n  lines\x1b[31m"), 1, "internal error: ValueError: two lines?[31m"),
        (PermissionError(13, "Permission denied", "f"), 2, "error: f: Permission denied\n"),
    ],
)
def test_every_end_is_one_line(run, few, monkeypatch, error, code, line):
    def fail(path):
        raise error

    monkeypatch.setattr(inspect_module.dx, "load", fail, raising=False)
    result = run("inspect", few / "fashion_vgg.onnx")
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.startswith(line)
    assert result.stderr.count("\n") == 1


def test_an_interrupt_before_a_command_begins(run, monkeypatch):
    def parse(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(click.Group, "parse_args", parse)
    result = run("inspect", "m.onnx")
    assert result.exit_code == 130
    assert result.stderr.strip() == "interrupted: nothing was begun"


def test_a_traceback_on_request(run, monkeypatch):
    def fail(path):
        raise ValueError("here")

    monkeypatch.setattr(inspect_module.dx, "load", fail, raising=False)
    monkeypatch.setenv("DISCEDIT_TRACEBACK", "1")
    result = run("inspect", "m.onnx")
    assert isinstance(result.exception, ValueError)


def test_a_reader_that_goes_away(few, moments):
    command = [*PROGRAM, "score", few / "fashion_resnet20.onnx", "--moments", moments, "--csv"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"layer,channel,component,class,against,bound,sign\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.parametrize("command", ["inspect", "moments show"])
def test_a_reader_that_is_gone_from_the_beginning(few, moments, command):
    """What is printed fits into the pipe: only writing it tells that nobody reads."""
    file = few / "fashion_resnet20.onnx" if command == "inspect" else moments
    reader, writer = os.pipe()
    os.close(reader)
    line = [*PROGRAM, *command.split(), file]
    done = subprocess.run(line, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], [], ["inspect", "-h"], None])
def test_an_output_that_is_full(few, arguments):
    line = [*PROGRAM, *(["inspect", few / "fashion_vgg.onnx"] if arguments is None else arguments)]
    with open("/dev/full", "w") as full:
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")


def test_outputs_that_are_closed(few):
    model = few / "fashion_vgg.onnx"

    def run(*closed):
        return subprocess.run(
            [*PROGRAM, "inspect", model],
            capture_output=True, text=True, check=False,
            preexec_fn=lambda: [os.close(stream) for stream in closed],
        )  # fmt: skip

    done = run(1)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output is closed")
    assert done.stderr.count("\n") == 1
    assert "Groups that can be removed" in run(2).stdout
    assert run(1, 2).returncode == 2


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_names_that_the_terminal_can_not_show(few, tmp_path, encoding):
    model = tmp_path / "modèle.onnx"
    model.write_bytes((few / "fashion_vgg.onnx").read_bytes())
    done = subprocess.run(
        [*PROGRAM, "inspect", model],
        capture_output=True,
        encoding=encoding,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        check=True,
    )
    assert ("modèle.onnx" if encoding == "utf-8" else r"mod\xe8le.onnx") in done.stdout
    assert done.stderr == ""


def test_a_bar_for_those_who_watch(few, tmp_path):
    """Standard error is a terminal here; elsewhere in these tests it is not, and stays empty."""
    command = [
        *PROGRAM, "calibrate", few / "fashion_resnet20.onnx", "--json", "--batch-size", "8",
        "--data", few / "fashion_mnist/calibration", "-o", tmp_path / "m.safetensors",
    ]  # fmt: skip
    seen, printed = shown(command, "stderr", stdout=subprocess.PIPE)
    json.loads(printed)
    assert b"calibrating" in seen
    assert b"60/60" in seen
    assert b"/s" in seen


def test_tables_fit_the_terminal_and_are_plain_when_piped(run, few, moments, monkeypatch):
    model = few / "fashion_resnet20.onnx"
    for width in (60, 80, 140):
        monkeypatch.setenv("COLUMNS", str(width))
        for arguments in (["inspect", model], ["score", model, "--moments", moments]):
            text = run(*arguments).stdout
            assert "\x1b" not in text
            assert not any(line.endswith(" ") for line in text.splitlines())
            assert "─" in text
            for table in text.split("\n\n"):
                if "─" in table:
                    assert max(map(len, table.splitlines())) <= width


def test_verbose_tells_what_onnx_runtime_runs_with(run, few):
    arguments = (
        "evaluate",
        few / "fashion_vgg.onnx",
        "--data",
        few / "fashion_mnist/test",
        "--json",
    )
    assert run(*arguments).stderr == ""
    told = run(*arguments, "-v", "--device", "cpu")
    json.loads(told.stdout)
    (line,) = told.stderr.splitlines()
    assert line.startswith("ONNX Runtime on cpu: CPUExecutionProvider; threads: ")
    assert line.endswith("; optimisation: enable all")
    assert run(*arguments).stderr == ""


@pytest.mark.parametrize("wanted", [True, False])
def test_no_color(few, tmp_path, wanted):
    """Standard output is a terminal here; the line that names a step is in colour."""
    recipe = tmp_path / "r.toml"
    recipe.write_text(f"[inspect]\nmodel = '{few / 'fashion_vgg.onnx'}'\n")
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color"} | ({} if wanted else {"NO_COLOR": "1"})
    seen, _ = shown([*PROGRAM, "run", recipe], "stdout", env=environment)
    assert b"Groups that can be removed" in seen
    assert bool(re.search(rb"\x1b\[[\d;]*(3\d|9\d|38)[;m]", seen)) == wanted


def test_a_failure_is_told_to_machines_too(run, few, tmp_path, monkeypatch):
    model = few / "fashion_resnet20.onnx"
    for code, arguments in (
        (3, ["inspect", "none.onnx", "--json"]),
        (2, ["inspect", model, "--nothing", "--json"]),
        (2, ["prune", model, "--json", "-o", "o.onnx"]),
        (2, ["run", "none.toml", "--json"]),
        (2, ["inspect", f"{300 * 'x'}.onnx", "--json"]),
    ):
        result = run(*arguments)
        error = json.loads(result.stdout)["error"]
        assert result.exit_code == error["exit_code"] == code
        assert result.stderr == f"error: {error['message']}\n"
    assert run("inspect", "none.onnx").stdout == ""
    monkeypatch.setenv("DISCEDIT_JSON", "1")
    assert json.loads(run("inspect", "none.onnx").stdout)["error"]["exit_code"] == 3


def test_a_step_that_fails_is_told_to_machines_too(run, few, tmp_path):
    recipe = tmp_path / "recipe.toml"
    model = few / "fashion_resnet20.onnx"
    recipe.write_text(f'model = "{model}"\n[inspect]\n[check]\nmax-size = "1MB"\n[score]\n')
    result = run("run", recipe, "--json")
    assert result.exit_code == 5
    first, second = json.loads(result.stdout)
    assert first.keys() == {"step", "result"}
    assert second["error"]["exit_code"] == 5
    assert not second["result"]["passed"]
    recipe.write_text(f'model = "{model}"\n[inspect]\n[score]\nmoments = "none"\n')
    result = run("run", recipe, "--json")
    assert result.exit_code == 4
    assert json.loads(result.stdout)[1]["error"]["message"] in result.stderr


def test_what_was_refused_ends_in_a_full_stop(run, few):
    model = few / "fashion_resnet20.onnx"
    for words in (["check", model, "--forgotten", "sandal"], ["inspect", model, "more"]):
        assert ". See discedit-onnx" in run(*words).stderr


def test_a_group_alone_prints_its_help(run):
    result = run("moments")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == run("moments", "--help").stdout
