"""The git hook and the check of the history refuse wrong commit subjects, in small repositories."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.style import commit_messages
from tests.style.commit_messages import NO_AREA, SCRIPT, check_subject

SUBJECT_OF_90 = f"docs: describe {'a' * 75}"


@pytest.mark.parametrize(
    "subject",
    [
        "planner: report the position of NP101",
        "benchmarks, tests: name locals by what they hold",
        "api: embed the schema",
        "dynamo-db: re-export the client",
        f"docs: describe {'a' * 57}",
        'Revert "planner: report the position of a very long name in a very long list of names"',
    ],
)
def test_a_right_subject_is_accepted(subject: str) -> None:
    assert check_subject(subject) is None


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        (SUBJECT_OF_90, "90 characters, at most 72 are allowed: write the reason into the body"),
        ("Fix the planner", "the area is missing: write `area: imperative change`"),
        ("Planner: fix it", "the area is missing"),
        ("planner:fix it", "the area is missing"),
        ("planner: Fix it", "`Fix` is not a verb in lower case: write `planner: verb …`"),
        ("planner: `x` is read", "is not a verb in lower case"),
        ("planner: added a check", "`added` is not imperative: write `planner: add …`"),
        ("planner: fixes a check", "`fixes` is not imperative: write `planner: fix …`"),
        ("planner: fixing a check", "`fixing` is not imperative: write `planner: fix …`"),
        ("planner: stores a check", "`stores` is not imperative: write `planner: store …`"),
        ("planner: stopped the solver", "`stopped` is not imperative: write `planner: stop …`"),
        (
            "planner: wrote a check",
            "`wrote` is not imperative: write `planner: verb …`, such as `planner: add …`",
        ),
        ("planner: the check of names", "`the` is not imperative"),
        ("planner: fix the check.", "must not end with a full stop"),
        ("fixup! planner: fix the check", "must be folded"),
    ],
)
def test_a_wrong_subject_is_reported_with_what_to_write(subject: str, problem: str) -> None:
    assert problem in (check_subject(subject) or "")


class GitCheckout:
    """A git repository with the script in it, and the files of commits that have none."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
        self.environment |= {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        for role in ("AUTHOR", "COMMITTER"):
            self.environment |= {f"GIT_{role}_NAME": "A", f"GIT_{role}_EMAIL": "a@example.org"}

    def git(self, *arguments: str, is_right: bool = True) -> str:
        """Run git, and return what it prints."""
        return self.run("git", *arguments, is_right=is_right)

    def script(self, *arguments: str, is_right: bool = True) -> str:
        """Run the script of the checkout, and return what it prints."""
        return self.run(sys.executable, SCRIPT, *arguments, is_right=is_right)

    def run(self, *command: str, is_right: bool = True) -> str:
        """Run a command in the checkout, check how it ends, and return what it prints."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert (done.returncode == 0) == is_right, done.stdout
        return done.stdout

    def commit(self, message: str, *arguments: str, is_right: bool = True) -> str:
        """Make a commit without a change, and return what git prints."""
        return self.git("commit", "--allow-empty", "-m", message, *arguments, is_right=is_right)

    def add_script(self) -> None:
        """Commit the script and the list that it reads."""
        folder = self.folder / Path(SCRIPT).parent
        folder.mkdir(parents=True)
        for path in (Path(commit_messages.__file__), commit_messages.FOLDER / "docstring_verbs.txt"):
            shutil.copy(path, folder)
        self.git("add", ".")
        self.git("commit", "-m", "A check of commits")


@pytest.fixture
def checkout(tmp_path: Path) -> GitCheckout:
    folder = tmp_path / "checkout"
    folder.mkdir()
    made = GitCheckout(folder)
    made.git("init", "--initial-branch=main")
    made.commit("Something before the check")
    made.add_script()
    return made


def test_the_history_is_checked_after_the_commit_that_added_the_check(checkout: GitCheckout) -> None:
    checkout.commit("docs: describe a step")
    assert checkout.script("history") == ""
    checkout.commit("Something after the check")
    commit = checkout.git("rev-parse", "--short", "HEAD").strip()
    checkout.commit("docs: describe a run")
    message = f"commit {commit}, subject `Something after the check`: {NO_AREA}\n"
    assert checkout.script("history", is_right=False) == message


def test_merges_and_reverts_are_no_wrong_commits(checkout: GitCheckout) -> None:
    checkout.git("switch", "--create", "side")
    (checkout.folder / "page.md").touch()
    checkout.git("add", "page.md")
    checkout.commit("docs: describe a step that has a name of many words and a long rule")
    checkout.git("switch", "main")
    checkout.git("merge", "--no-ff", "side")
    checkout.git("revert", "--no-edit", "side")
    assert "Merge branch" in checkout.git("log")
    assert 'Revert "docs' in checkout.git("log")
    assert checkout.script("history") == ""


def test_a_shallow_clone_is_checked_as_far_as_it_goes(checkout: GitCheckout, tmp_path: Path) -> None:
    checkout.commit("Something old")
    checkout.commit("Something new")
    for depth, expected in ((1, []), (2, ["Something new"]), (3, ["Something old", "Something new"])):
        clone = GitCheckout(tmp_path / f"depth-{depth}")
        checkout.git("clone", "--quiet", f"--depth={depth}", checkout.folder.as_uri(), str(clone.folder))
        lines = clone.script("history", is_right=not expected).splitlines()
        assert [line.split("`")[1] for line in lines] == expected


def test_the_hook_refuses_a_wrong_commit_and_accepts_a_right_one(checkout: GitCheckout) -> None:
    assert checkout.script("install") == ""
    refused = checkout.commit(SUBJECT_OF_90, is_right=False)
    problem = "90 characters, at most 72 are allowed: write the reason into the body"
    assert refused == f"commit subject `{SUBJECT_OF_90}`: {problem}\n"
    assert "leave the second line empty" in checkout.commit(f"docs: describe\n{'a' * 70}", is_right=False)
    checkout.commit("docs: describe a step\n\nThe reason, which may be of any length: " + "a" * 100)
    checkout.commit("docs: describe a step", "--fixup=HEAD")
    assert checkout.script("install") == ""


def test_the_hook_does_not_read_comments_of_the_editor(checkout: GitCheckout) -> None:
    message = checkout.folder / "message"
    scissors = "# ------------------------ >8 ------------------------"
    message.write_text(f"\n# a comment\ndocs: describe a step\n{scissors}\ndiff --git {'a' * 90}\n")
    assert checkout.script("message", "message") == ""
    message.write_text("# only a comment\n")
    assert checkout.script("message", "message") == ""


def test_the_hook_of_a_checkout_works_in_its_worktrees(checkout: GitCheckout, tmp_path: Path) -> None:
    worktree = GitCheckout(tmp_path / "worktree")
    checkout.git("worktree", "add", str(worktree.folder))
    worktree.script("install")
    for place in (worktree, checkout):
        assert "the area is missing" in place.commit("Describe a step", is_right=False)
        place.commit("docs: describe a step")


def test_the_hook_accepts_commits_of_branches_without_the_check(checkout: GitCheckout) -> None:
    checkout.script("install")
    checkout.git("switch", "--detach", "HEAD~1")
    checkout.commit("Something on an old branch")


def test_a_hook_of_the_user_is_not_overwritten_without_a_word(checkout: GitCheckout) -> None:
    hook = checkout.folder / ".git/hooks/commit-msg"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\nexit 0\n")
    assert checkout.script("install") == (
        f'commit subjects are not checked: add `python3 {SCRIPT} message "$1"` to the hook {hook.resolve()}\n'
    )
    assert hook.read_text() == "#!/bin/sh\nexit 0\n"
    hook.write_text(f'#!/bin/sh\npython3 {SCRIPT} message "$1"\n')
    assert checkout.script("install") == ""


def test_nothing_is_written_to_hooks_of_all_repositories(checkout: GitCheckout, tmp_path: Path) -> None:
    checkout.git("config", "core.hooksPath", str(tmp_path / "hooks"))
    assert f"to the hook {tmp_path / 'hooks' / 'commit-msg'}" in checkout.script("install")
    assert not (tmp_path / "hooks").exists()


def test_a_folder_without_git_has_no_hook(checkout: GitCheckout) -> None:
    shutil.rmtree(checkout.folder / ".git")
    assert checkout.script("install") == ""
