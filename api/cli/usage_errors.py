"""Errors of the command line itself, such as an unknown option, as one sentence with the way out."""

from __future__ import annotations

import re
from typing import Any

import typer

from noetl.planner.diagnostics.diagnostic import closest
from noetl.planner.diagnostics.wording import abbreviate, as_code, join_words

_UNKNOWN_COMMAND = re.compile(r"No such command '(.*?)'\.")
_UNKNOWN_CHOICE = re.compile(r"'(?P<value>.*)' is not one of (?P<choices>'.*')", re.DOTALL)
_EXTRA_ARGUMENTS = re.compile(r"extra argument\S* \((.*)\)", re.DOTALL)
_NUMBER_ERRORS = ("int_parsing", "int_type", "int_from_float", "int_parsing_size")


def describe_usage_error(error: typer.TyperException) -> str | None:
    """Return a sentence for an error of Typer, or None if Typer has printed the help instead."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return None
    problem, hint = _problem_and_hint(error, getattr(error, "ctx", None))
    return f"{problem}; {hint}" if hint else problem


def _problem_and_hint(error: typer.TyperException, context: Any) -> tuple[str, str | None]:
    message, option = error.message, getattr(error, "option_name", None)
    parameter = getattr(error, "param", None)
    if option is not None:
        return _describe_option(option, message, context)
    if (unknown := _UNKNOWN_COMMAND.search(message)) is not None:
        return _describe_command(unknown[1], context)
    if (extra := _EXTRA_ARGUMENTS.search(message)) is not None:
        return f"unexpected argument `{extra[1]}` of `{context.command_path}`", _example(context)
    if parameter is None:
        return message.rstrip("."), "`noetl --help` shows the commands"
    if type(error).__name__ == "MissingParameter":
        kind = "option" if parameter.opts[0].startswith("-") else "argument"
        return f"missing {kind} `{_name_of(parameter)}` of `{context.command_path}`", _example(context)
    return _describe_value(f"`{_name_of(parameter)}`", error)


def _describe_command(word: str, context: Any) -> tuple[str, str | None]:
    """Describe an unknown command. The command that was meant may be one of another group."""
    path = context.command_path
    names = _command_names(context.find_root().command)
    by_last_word = {name.rpartition(" ")[2]: name for name in reversed(names)}
    by_last_word |= {name: f"{path} {name}" for name in context.command.commands}
    meant = by_last_word.get(closest(word, by_last_word) or word)
    hint = f"did you mean `{meant}`?" if meant else f"`{path} --help` lists the commands"
    return f"unknown command `{path} {word}`", hint


def _command_names(command: Any, name: str = "noetl") -> list[str]:
    """Return the full names of a command and of all commands below it."""
    names = [name]
    for word, subcommand in getattr(command, "commands", {}).items():
        names += _command_names(subcommand, f"{name} {word}")
    return names


def _describe_option(option: str, message: str, context: Any) -> tuple[str, str | None]:
    if "requires an argument" in message:
        return f"missing value of `{option}`", "write it after the option"
    if "does not take a value" in message:
        return f"unexpected value of `{option}`", f"write `{option}` alone"
    known = [name for parameter in context.command.params for name in parameter.opts if name.startswith("-")]
    known.append("--help")
    if option in _options_below(context.command):
        return f"unexpected option `{option}` before the command", f"write `{option}` after the command"
    if option == "--where" and "--status" in known:
        hint = "each condition is an option, such as `--status waiting`"
        return f"unknown option `{option}` of `{context.command_path}`", hint
    meant = closest(option, known)
    options = join_words(as_code(name for name in known if name.startswith("--")), "and")
    hint = f"did you mean `{meant}`?" if meant else f"it takes {options}"
    return f"unknown option `{option}` of `{context.command_path}`", hint


def _options_below(group: Any) -> set[str]:
    """Return the options of all commands of a group."""
    options: set[str] = set()
    for command in getattr(group, "commands", {}).values():
        options |= {name for parameter in command.params for name in parameter.opts} | _options_below(command)
    return options


def _describe_value(name: str, error: typer.TyperException) -> tuple[str, str | None]:
    """Describe an invalid value with the words of the language instead of those of pydantic."""
    if (unknown := _UNKNOWN_CHOICE.search(error.message)) is not None:
        choices = re.findall(r"'([^']*)'", unknown["choices"])
        meant = closest(unknown["value"], choices)
        hint = f"did you mean `{meant}`?" if meant else None
        return f"{name} must be {join_words(as_code(choices))}, not `{abbreviate(unknown['value'])}`", hint
    details: list[Any] = getattr(error.__cause__, "errors", list)()
    kind, bounds = (details[0]["type"], details[0].get("ctx", {})) if details else ("", {})
    shown = f", not `{abbreviate(str(details[0]['input']))}`" if details else ""
    if kind in _NUMBER_ERRORS:
        return f"{name} must be a whole number{shown}", None
    for key, words in (("ge", "at least"), ("le", "at most")):
        if key in bounds:
            return f"{name} must be {words} {bounds[key]}{shown}", None
    return f"{name} is invalid: {error.message.rstrip('.')}", None


def _name_of(parameter: Any) -> str:
    """Return the long name of an option, or the word that the help shows for an argument."""
    options = [name for name in parameter.opts if name.startswith("-")]
    return str(max(options, key=len) if options else parameter.metavar or parameter.name)


def _example(context: Any) -> str | None:
    """Return the example of the help of a command, as a hint."""
    epilog = context.command.epilog
    return f"write it as in `{epilog.removeprefix('Example: ')}`" if epilog else None
