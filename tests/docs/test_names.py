"""Names on the pages exist: commands, options, settings, action types, HTTP calls, make targets and paths.

Each check takes the text of a page and yields what is wrong with it. Every setting of the code is documented.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from noetl.api.app import create_app
from noetl.api.cli.app import app
from noetl.executor.actions import catalogue
from noetl.executor.settings import SECRET_PREFIXES, SETTINGS
from noetl.infra.reference import ROOT
from noetl.infra.site.markdown_links import find_code
from tests.docs.page_mistakes import DOCS, PageMistake, report
from tests.recipes.recipe import find_open_recipes

PRESENT = [page for page in DOCS if page.parent.name != "decisions" and page not in find_open_recipes(ROOT)]
"""The pages without the decisions, which may name what was removed since, and without what a recipe adds."""

SHELLS = {"sh", "bash", "console"}
COMMAND = re.compile(
    r"(?:^|[|;&(]\s*|\b(?:then|do|time|exec)\s+)(?:[A-Z_]+=\S*\s+)*(?:\S*/)?noetl(?P<words>(?: .*)?)$"
)
COMMAND_END = re.compile(r"\s(?:\|\|?|&&?|\d?[<>]|#)(?:\s|&)|\s&$|;|\)|\s[<>]")
OPTION = re.compile(r"--?[a-z][a-z-]*")
SETTING = re.compile(r"\bNOETL_[A-Z_]*[A-Z]\b(?!_)")
ACTION_NAMES = re.compile(r"\bactions?(?: types?)?\s+(`\w+`(?:(?:,\s*|,?\s+(?:and|or)\s+)`\w+`)*)")
CODE_WORD = re.compile(r"`(\w+)`")
ROUTE = re.compile(r"\b(GET|POST|PUT|PATCH|DELETE) (/[\w/{}.-]*)")
MAKE = re.compile(r"(?:^|[;&|]\s*)make ([a-z][a-z -]*)$")
MODULE = re.compile(r"python -m ((?:noetl|benchmarks|tests)[\w.]*)")
PATH = re.compile(r"(?:planner|executor|api|infra|tests|docs|benchmarks|noetl/testing|examples)/[\w./-]*")
PLACEHOLDER = re.compile(r"[A-Z]{4}|\bmy_")
CAMEL_CASE = re.compile(r"^(?:[A-Z][a-z]+){2,}$")
PARAMETER = re.compile(r"(?<![\w.-])((?:[A-Z][a-z]+)+)=")

Problem = tuple[int, str, str]
"""A line, what is wrong there, and the fix."""

Check = Callable[[str], Iterator[Problem]]
"""A function of the text of a page."""


def suggest(name: str, names: Iterable[str], otherwise: str) -> str:
    close = get_close_matches(name, list(names), n=1, cutoff=0.6)
    return f"did you mean `{close[0]}`?" if close else otherwise


@cache
def command_line() -> Any:
    return typer.main.get_command(app)


def subcommands(command: Any) -> dict[str, Any]:
    return getattr(command, "commands", {})


def options(command: Any) -> set[str]:
    return {"--help", "-h"}.union(*(p.opts + p.secondary_opts for p in command.params))


def all_options(command: Any) -> set[str]:
    return options(command).union(*map(all_options, subcommands(command).values()))


def shell_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield the commands of a page: inline code, and the lines of shell blocks without prompt and output."""
    for code in find_code(text):
        if code.language is None:
            yield code.line, code.text
            continue
        lines = list(enumerate(code.text.splitlines(), code.line))
        if code.language == "console":
            lines = [(number, line[2:]) for number, line in lines if line.startswith(("$ ", "> "))]
        elif code.language not in SHELLS:
            continue
        start = ""
        for number, line in lines:
            if not line.endswith("\\"):
                yield number, start + line
            start = start + line[:-1] if line.endswith("\\") else ""


def check_commands(text: str) -> Iterator[Problem]:
    for line, shell in shell_lines(text):
        for part in re.split(r"(?<=\|\s)|(?<=&&\s)|(?<=;\s)|(?<=\$\()", shell):
            if match := COMMAND.search(part):
                words = COMMAND_END.split(match["words"], maxsplit=1)[0]
                yield from ((line, *problem) for problem in check_words(words))
    for code in find_code(text):
        if code.language is None and re.fullmatch(rf"{OPTION.pattern}(?:[ =].*)?", code.text):
            option = re.split(r"[ =]", code.text)[0]
            if option not in all_options(command_line()) | foreign_options():
                fix = suggest(option, all_options(command_line()), "name an option of `noetl`")
                yield code.line, f"unknown option `{option}`", fix


def check_words(text: str) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the words after `noetl`. `list|show` stands for both words."""
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    command, name = command_line(), "noetl"
    for word in words:
        known = subcommands(command)
        if word == "--":
            return
        if OPTION.match(word):
            option = word.partition("=")[0]
            if option not in options(command):
                yield (
                    f"`{name}` has no option `{option}`",
                    suggest(option, options(command), f"see `{name} --help`"),
                )
        elif known and re.fullmatch(r"[a-z][a-z|-]*", word):
            for alternative in word.split("|"):
                if alternative not in known:
                    fix = suggest(alternative, known, f"the commands are {', '.join(known)}")
                    yield f"`{name}` has no command `{alternative}`", fix
            if word not in known:
                return
            command, name = known[word], f"{name} {word}"


@cache
def foreign_options() -> set[str]:
    """Return the options of the programs of this repository, which are not commands of `noetl`."""
    files = [path for folder in ("infra", "benchmarks", "tests") for path in (ROOT / folder).rglob("*.py")]
    return {
        option
        for path in files
        if path != Path(__file__)
        for option in re.findall(r"add_argument\(\s*\"(--?[a-z][a-z-]*)\"", path.read_text("utf-8"))
    }


def check_settings(text: str) -> Iterator[Problem]:
    known = {setting.name for setting in SETTINGS}
    for line, found in enumerate(text.splitlines(), 1):
        for name in SETTING.findall(found):
            if name not in known and not name.startswith(SECRET_PREFIXES):
                fix = suggest(name, known, "take a name of docs/reference/settings.md")
                yield line, f"unknown setting `{name}`", fix


def check_actions(text: str) -> Iterator[Problem]:
    names = set(catalogue())
    for match in ACTION_NAMES.finditer(text):
        line = text.count("\n", 0, match.start(1)) + 1
        for name in CODE_WORD.findall(match[1]):
            if name not in names and f"action: {name}" not in text and f'"{name}"' not in text:
                yield (
                    line,
                    f"unknown action type `{name}`",
                    suggest(name, names, f"the types are {', '.join(names)}"),
                )


@cache
def routes() -> frozenset[str]:
    """Return the HTTP calls of the service, with `{}` for each parameter of the path."""
    paths = create_app().openapi()["paths"]
    return frozenset(f"{m.upper()} {re.sub('{[^}]*}', '{}', path)}" for path in paths for m in paths[path])


def check_routes(text: str) -> Iterator[Problem]:
    for code in find_code(text):
        for method, path in ROUTE.findall(code.text) if code.language is None else ():
            name = f"{method} {re.sub('{[^}]*}', '{}', path)}"
            if name not in routes():
                fix = suggest(name, routes(), "take a call of docs/reference/http.md")
                yield code.line, f"unknown HTTP call `{method} {path}`", fix


def check_template(text: str) -> Iterator[Problem]:
    """Yield names of parameters and resources of the stack that do not exist, on a page that deploys it."""
    if "sam deploy" not in text:
        return
    for code in find_code(text):
        names = CAMEL_CASE.findall(code.text) if code.language is None else PARAMETER.findall(code.text)
        for name in names:
            if name not in template_words():
                yield (
                    code.line,
                    f"unknown name `{name}`",
                    suggest(name, template_words(), "see template.yaml"),
                )


@cache
def template_words() -> frozenset[str]:
    """Return the words of the templates, and the error types and metrics of the code."""
    templates = [ROOT / "template.yaml", ROOT / "infra" / "dashboard.yaml"]
    words = {word for path in templates for word in re.findall(r"\w+", path.read_text("utf-8"))}
    code = (path.read_text("utf-8") for path in (ROOT / "executor").rglob("*.py"))
    return frozenset(words.union(*(re.findall(r'"([A-Z]\w+)"', text) for text in code)))


def check_repository(text: str) -> Iterator[Problem]:
    """Yield targets of make, modules and paths that do not exist."""
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for line, shell in shell_lines(text):
        for target in (word for found in MAKE.findall(shell) for word in found.split()):
            if target not in targets:
                yield line, f"unknown target `make {target}`", suggest(target, targets, "see `make help`")
        for module in MODULE.findall(shell):
            path = ROOT.joinpath(*module.rstrip(".").removeprefix("noetl.").split("."))
            if not path.with_suffix(".py").exists() and not (path / "__main__.py").exists():
                yield line, f"module `{module}` does not exist", "name a module that `python -m` can run"
    for code in find_code(text):
        is_path = code.language is None and PATH.fullmatch(code.text) and not PLACEHOLDER.search(code.text)
        if is_path and not (ROOT / code.text).exists():
            yield code.line, f"path `{code.text}` does not exist", "correct the path"


CHECKS: dict[str, Check] = {
    "commands": check_commands,
    "settings": check_settings,
    "actions": check_actions,
    "routes": check_routes,
    "template": check_template,
    "repository": check_repository,
}


@pytest.mark.parametrize("kind", CHECKS)
def test_every_name_exists(kind: str) -> None:
    texts = {page: page.read_text("utf-8") for page in PRESENT}
    report(PageMistake(page, *problem) for page, text in texts.items() for problem in CHECKS[kind](text))


@pytest.mark.parametrize(
    ("kind", "text", "problem", "fix"),
    [
        ("commands", "run `noetl rnus list` now", "`noetl` has no command `rnus`", "did you mean `runs`?"),
        ("commands", "`noetl runs list|shwo`", "`noetl runs` has no command `shwo`", "did you mean `show`?"),
        (
            "commands",
            "`noetl plan x.yaml --fromat svg`",
            "`noetl plan` has no option `--fromat`",
            "`--format`",
        ),
        ("commands", "```sh\nA=1 noetl runn x\n```", "`noetl` has no command `runn`", "did you mean `run`?"),
        ("commands", "```console\n$ cd x && noetl go\nnoetl no\n```", "`noetl` has no command `go`", "check"),
        ("commands", "```sh\nx | noetl run - \\\n  --jsn\n```", "no option `--jsn`", "`--json`"),
        ("commands", "the option `--explain-jions`", "unknown option `--explain-jions`", "`--explain-joins`"),
        ("settings", "```sh\nexport NOETL_STROE=x\n```", "unknown setting `NOETL_STROE`", "`NOETL_STORE`"),
        ("actions", "the actions `http` and `sqs`", "unknown action type `sqs`", "the types are"),
        ("actions", "the action\n`htpt`", "unknown action type `htpt`", "did you mean `http`?"),
        (
            "routes",
            "`GET /workflow/{id}/events`",
            "unknown HTTP call `GET /workflow/{id}/events`",
            "did you mean",
        ),
        ("template", "`sam deploy` of `StepMemry`", "unknown name `StepMemry`", "`StepMemory`"),
        (
            "template",
            "```sh\nsam deploy x Architecure=a\n```",
            "`Architecure`",
            "`Architecture`",
        ),
        ("repository", "`make tset`", "unknown target `make tset`", "did you mean `test`?"),
        (
            "repository",
            "`python -m noetl.infra.refs`",
            "module `noetl.infra.refs` does not exist",
            "name a module",
        ),
        ("repository", "see `planner/chekcs/`", "path `planner/chekcs/` does not exist", "correct the path"),
    ],
)
def test_a_wrong_name_is_reported_with_a_fix(kind: str, text: str, problem: str, fix: str) -> None:
    findings = list(CHECKS[kind](f"# Page\n\n{text}\n"))
    assert len(findings) == 1
    assert findings[0][0] >= 3
    assert problem in findings[0][1]
    assert fix in findings[0][2]


def code_settings() -> dict[str, tuple[Path, int]]:
    """Return the settings that the code names, each with a file and a line that names it."""
    files = [path for folder in ("planner", "executor", "api") for path in (ROOT / folder).rglob("*.py")]
    files = [path for path in files if path != ROOT / "executor" / "settings.py"]
    return {
        name: (path, line)
        for path in [*files, ROOT / "infra" / "Makefile"]
        for line, text in enumerate(path.read_text("utf-8").splitlines(), 1)
        for name in SETTING.findall(text)
    }


def test_every_setting_of_the_code_is_declared_and_documented() -> None:
    found = code_settings()
    declared = {setting.name for setting in SETTINGS}
    report(
        PageMistake(*place, f"setting `{name}` is not declared", "add it to executor/settings.py")
        for name, place in found.items()
        if name not in declared
    )
    assert declared - set(found) == set(), "remove the setting from executor/settings.py"
    page = (ROOT / "docs" / "reference" / "settings.md").read_text("utf-8")
    assert {name for name in declared if f"| `{name}` |" not in page} == set()


def test_every_parameter_of_the_template_is_documented() -> None:
    template = yaml.compose((ROOT / "template.yaml").read_text("utf-8"))
    assert template is not None
    sections = {key.value: value for key, value in template.value}
    parameters = [key.value for key, _ in sections["Parameters"].value]
    page = (ROOT / "docs" / "how-to" / "aws.md").read_text("utf-8")
    assert len(parameters) > 20
    assert [name for name in parameters if f"`{name}`" not in page] == []
