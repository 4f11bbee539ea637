"""Commit subjects: `area: imperative change`, of at most 72 characters.

    python tests/style/commit_messages.py message FILE   # check one message, as the git hook commit-msg
    python tests/style/commit_messages.py history        # check the commits since this file was added
    python tests/style/commit_messages.py install        # write the git hook, unless another one exists

Git runs the hook with any Python 3, so this file uses only the standard library.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
SCRIPT = Path(__file__).resolve().relative_to(ROOT).as_posix()

LONGEST = 72
SUBJECT = re.compile(r"(?P<area>[a-z][a-z0-9_-]*(?:, [a-z][a-z0-9_-]*)*): (?P<change>\S.*)")
FIRST_WORD = re.compile(r"[a-z]+(?:-[a-z]+)*(?![\w'.-])")
# Git writes these itself. The others are to be folded into the commit that they name before they are pushed.
WRITTEN_BY_GIT = re.compile(r'(?:Revert|Reapply) "')
TO_BE_FOLDED = re.compile(r"(?:fixup|squash|amend)! ")
SCISSORS = re.compile(r"^\S+ -+ >8 -+$", re.MULTILINE)

# The ending of a word shows that it is not imperative, except for these verbs.
INFLECTED = re.compile(r"\w+(?:ed|ing|(?<!s)s)")
IMPERATIVE = re.compile(r"alias|bias|bring|embed|exceed|feed|focus|need|ping|proceed|seed|shed|speed")
PAST_TENSE = re.compile(
    r"began|broke|built|chose|did|drew|found|gave|got|held|kept|left|lost|made|ran|rewrote|sent|shrank|sped|"
    r"took|went|withdrew|wrote"
)
NO_VERB = re.compile(r"an?|another|bugfix|fewer|first|less|minor|misc|more|new|no|some|the|this|various|wip")
FOLD = "the commit must be folded into the one that it names: run `git rebase --interactive --autosquash`"
NO_AREA = "the area is missing: write `area: imperative change`, such as `docs: correct the price of a step`"

HOOK_HEAD = f"#!/bin/sh\n# Written by {SCRIPT}"
HOOK = f"""{HOOK_HEAD}, which checks the subject of the commit.
script="$(git rev-parse --show-toplevel)/{SCRIPT}"
[ -f "$script" ] || exit 0
exec python3 "$script" message "$1"
"""


def check_subject(subject: str) -> str | None:
    """Return what is wrong with the subject of a commit and what to write instead, or None.

    >>> check_subject("planner: fix the position of NP101")
    >>> check_subject("planner: fixed the position of NP101")
    '`fixed` is not imperative: write `planner: fix …`'
    """
    if WRITTEN_BY_GIT.match(subject):
        return None
    if TO_BE_FOLDED.match(subject):
        return FOLD
    match = SUBJECT.fullmatch(subject)
    if match is None:
        return NO_AREA
    if problem := _check_first_word(match["area"], match["change"]):
        return problem
    if len(subject) > LONGEST:
        return f"{len(subject)} characters, at most {LONGEST} are allowed: write the reason into the body"
    if subject.endswith("."):
        return "the subject must not end with a full stop: remove it"
    return None


def check_message(text: str) -> str | None:
    """Return what is wrong with the subject of a message, as an editor has left it, or None.

    As in git, the subject is the first paragraph without comments. Not checked are the subjects of a merge, a
    commit to be folded, and an empty message, with which git stops.
    """
    text = SCISSORS.split(text, maxsplit=1)[0]
    paragraph = _git("stripspace", "--strip-comments", text=text).split("\n\n", maxsplit=1)[0]
    subject = " ".join(paragraph.splitlines())
    if not subject or TO_BE_FOLDED.match(subject) or _is_merge():
        return None
    problem = check_subject(subject)
    if problem and "\n" in paragraph.strip():
        problem += ", and leave the second line empty"
    return f"commit subject `{subject}`: {problem}" if problem else None


def check_history() -> list[str]:
    """Return a message for each wrong subject of a commit after the one that added this file.

    A shallow clone has fewer commits: git shows its oldest ones as those that add every file, so that the
    check starts after them.
    """
    added = _git("log", "--diff-filter=A", "--format=%H", "--", SCRIPT).split()
    log = _git("log", "--no-merges", "--reverse", "--format=%h %s", "HEAD", "--not", *added) if added else ""
    commits = [line.partition(" ") for line in log.splitlines()]
    return [
        f"commit {commit}, subject `{subject}`: {problem}"
        for commit, _, subject in commits
        if (problem := check_subject(subject))
    ]


def install_hook() -> str | None:
    """Write the git hook of this checkout. Return a hint if the user has hooks of another kind.

    A folder without git has no hook. `core.hooksPath` may lead to the hooks of all repositories of a user, so
    nothing is written there.
    """
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        return None
    hook = Path(ROOT, _git("rev-parse", "--git-path", "hooks/commit-msg").strip())
    existing = hook.read_text("utf-8", "replace") if hook.exists() else ""
    if existing.startswith(HOOK_HEAD) or (
        not existing and not _git("config", "--default", "", "core.hooksPath").strip()
    ):
        hook.parent.mkdir(parents=True, exist_ok=True)
        hook.write_text(HOOK, "utf-8")
        hook.chmod(0o755)
    elif SCRIPT not in existing:
        return f'commit subjects are not checked: add `python3 {SCRIPT} message "$1"` to the hook {hook}'
    return None


def _check_first_word(area: str, change: str) -> str | None:
    match = FIRST_WORD.match(change)
    if match is None:
        word = change.split()[0]
        return f"`{word}` is not a verb in lower case: write `{area}: verb …`, such as `{area}: add …`"
    word = match[0]
    is_inflected = INFLECTED.fullmatch(word) and not IMPERATIVE.fullmatch(word)
    if not (is_inflected or PAST_TENSE.fullmatch(word) or NO_VERB.fullmatch(word)):
        return None
    verb = _find_imperative(word)
    advice = f"`{area}: {verb} …`" if verb else f"`{area}: verb …`, such as `{area}: add …`"
    return f"`{word}` is not imperative: write {advice}"


def _find_imperative(word: str) -> str | None:
    """Return the verb of which `word` is a regular form, if it is a verb of the docstrings."""
    verbs = (FOLDER / "docstring_verbs.txt").read_text("utf-8").lower().split()
    for ending in ("s", "es", "ed", "ing"):
        stem = word.removesuffix(ending)
        for verb in (stem, stem + "e", stem[:-1]):
            if word != stem and verb in verbs:
                return verb
    return None


def _is_merge() -> bool:
    return bool(_git("rev-parse", "--quiet", "--verify", "MERGE_HEAD", is_checked=False))


def _git(*arguments: str, text: str = "", is_checked: bool = True) -> str:
    command = ["git", *arguments]
    done = subprocess.run(
        command, input=text, cwd=ROOT, check=is_checked, stdout=subprocess.PIPE, encoding="utf-8"
    )
    return done.stdout


def main(arguments: list[str]) -> int:
    """Run the command of the module docstring. Return its exit code."""
    match arguments:
        case ["message", file]:
            problems: list[str | None] = [check_message(Path(file).read_text("utf-8"))]
        case ["history"]:
            problems = [*check_history()]
        case ["install"]:
            problems = [install_hook()]
        case _:
            problems = [__doc__]
    found = [problem for problem in problems if problem]
    print(*found, sep="\n", end="\n" if found else "", file=sys.stderr)
    return int(bool(found) and arguments != ["install"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
