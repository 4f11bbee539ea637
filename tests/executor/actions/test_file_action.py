from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from noetl.executor.actions import _formats, file
from noetl.executor.actions._formats import decode, read_csv
from noetl.executor.actions._glob import find_files
from noetl.executor.errors import ActionError, CancelledError
from noetl.executor.security.capabilities import Capabilities, local_run_capabilities
from noetl.testing.actions import ActionTester
from tests.action_calls import perform_action


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    folder.mkdir()
    return folder


def perform_file(root: Path, **parameters: Any) -> Any:
    return perform_action("file", capabilities=local_run_capabilities(root), **parameters)


CONTENTS_WRITTEN = [
    ("text", "a\nü\r\n", "a\nü\r\n"),
    ("text", 12, "12"),
    ("json", {"a": [1, None, "ü"]}, '{\n  "a": [\n    1,\n    null,\n    "ü"\n  ]\n}\n'),
    ("jsonl", [{"a": 1}, [2], "x"], '{"a":1}\n[2]\n"x"\n'),
    ("jsonl", {"a": 1}, '{"a":1}\n'),
    (
        "csv",
        [{"a": 1, "b": "x,y"}, {"a": None, "c": True, "b": [1]}],
        'a,b,c\n1,"x,y",\n,[1],true\n',
    ),
    ("csv", [], ""),
]


@pytest.mark.parametrize(("format", "content", "expected"), CONTENTS_WRITTEN)
def test_content_is_written_in_its_format(root: Path, format: str, content: Any, expected: str) -> None:
    result = perform_file(root, write="out/a.txt", format=format, content="{{ c }}", names={"c": content})
    assert (root / "out/a.txt").read_bytes() == expected.encode()
    assert result == {"path": "out/a.txt", "bytes": len(expected.encode())}


CONTENTS_READ = [
    ("text", "\ufeffa\r\n", "a\r\n"),
    ("json", '{"a": 1}', {"a": 1}),
    ("jsonl", '{"a":1}\n\n[2]\n', [{"a": 1}, [2]]),
    ("csv", "amount:number,name\n1.50,Ann\n2,\n,Bob\n", [
        {"amount": 1.5, "name": "Ann"},
        {"amount": 2, "name": ""},
        {"amount": None, "name": "Bob"},
    ]),
    ("csv", '\ufeffa:integer,b:boolean,c:string,d:e\r\n-1,TRUE,"x\ny",01\r\n', [
        {"a": -1, "b": True, "c": "x\ny", "d:e": "01"},
    ]),
    ("csv", "", []),
    ("csv", "a,b\n", []),
]  # fmt: skip


@pytest.mark.parametrize(("format", "text", "expected"), CONTENTS_READ)
def test_a_file_is_read_in_its_format(root: Path, format: str, text: str, expected: Any) -> None:
    (root / "a").write_bytes(text.encode())
    assert perform_file(root, read="a", format=format) == expected
    assert perform_file(root, read=str(root / "a"), format=format) == expected


@pytest.mark.parametrize(
    ("format", "text", "message"),
    [
        ("json", "{", "invalid JSON"),
        ("json", '{"a": Infinity}', "Infinity is not JSON"),
        ("jsonl", "1\n{", "line 2: invalid JSON"),
        ("csv", "a,b\n1\n", "line 2 has 1 cells, but the header has 2"),
        ("csv", "a,a\n", "duplicate column 'a'"),
        ("csv", 'a\n"x', "line 2: invalid CSV"),
        ("csv", "n:integer\n1\n1.5\n", "line 3: 'n' is '1.5', not of type integer"),
        ("csv", "n:number\nnan\n", "not of type number"),
        ("csv", "n:number\n1_0\n", "not of type number"),
        ("csv", "n:boolean\nfalse\nyes\n", "line 3: 'n' is 'yes', not of type boolean"),
    ],
)
def test_a_file_that_violates_its_format_is_an_error(
    root: Path, format: str, text: str, message: str
) -> None:
    (root / "a").write_text(text)
    with pytest.raises(ActionError, match=message) as caught:
        perform_file(root, read="a", format=format)
    assert (caught.value.type, caught.value.retryable) == ("FileError", False)


@pytest.mark.parametrize(
    ("format", "content", "message"),
    [
        ("text", {"a": 1}, "set `format` to `json`"),
        ("json", {"a": float("inf")}, "not JSON compliant"),
        ("csv", ["a"], "a list of objects"),
        ("csv", {"a": 1}, "a list of objects"),
    ],
)
def test_content_that_a_format_cannot_represent_is_an_error(
    root: Path, format: str, content: Any, message: str
) -> None:
    with pytest.raises(ActionError, match=message):
        perform_file(root, write="a", format=format, content=content)
    assert list(root.iterdir()) == []


def test_a_write_replaces_the_file_atomically_and_keeps_its_mode(root: Path) -> None:
    target = root / "a"
    target.write_text("old")
    target.chmod(0o640)
    with target.open() as reader:
        perform_file(root, write="a", content="new")
        assert reader.read() == "old"
    assert target.read_text() == "new"
    assert target.stat().st_mode & 0o777 == 0o640
    assert list(root.iterdir()) == [target]


def test_a_write_that_fails_leaves_nothing_behind(root: Path) -> None:
    (root / "folder").mkdir()
    with pytest.raises(ActionError) as caught:
        perform_file(root, write="folder", content="x")
    assert caught.value.type == "FileError"
    assert list(root.rglob("*")) == [root / "folder"]


def test_content_is_appended(root: Path) -> None:
    assert perform_file(root, append="a", content="x\n") == {"path": "a", "bytes": 2}
    perform_file(root, append="a", content="y\n")
    assert (root / "a").read_text() == "x\ny\n"
    perform_file(root, append="l", format="jsonl", content={"a": 1})
    perform_file(root, append="l", format="jsonl", content=[2, 3])
    assert (root / "l").read_text() == '{"a":1}\n2\n3\n'
    with pytest.raises(ActionError, match="use `format: jsonl`"):
        perform_file(root, append="j", format="json", content=1)


def test_rows_are_appended_in_the_columns_of_the_file(root: Path) -> None:
    (root / "a.csv").write_text("n:integer,name\n1,Ann")
    perform_file(root, append="a.csv", format="csv", content=[{"name": "Bob", "n": 2}, {"name": "Eve"}])
    assert (root / "a.csv").read_text() == "n:integer,name\n1,Ann\n2,Bob\n,Eve\n"
    with pytest.raises(ActionError, match="unknown column 'x'"):
        perform_file(root, append="a.csv", format="csv", content=[{"x": 1}])
    perform_file(root, append="new.csv", format="csv", content=[{"x": 1}])
    assert (root / "new.csv").read_text() == "x\n1\n"


def test_files_that_match_a_pattern_are_listed(root: Path) -> None:
    for name in ("b.csv", "a.csv", "sub/c.csv", "d.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    assert perform_file(root, list="*.csv") == ["a.csv", "b.csv"]
    assert perform_file(root, list="**/*.csv") == ["a.csv", "b.csv", "sub/c.csv"]
    assert perform_file(root, list="none/*") == []
    assert perform_file(root, list=f"{root}/*.txt") == ["d.txt"]


@pytest.mark.parametrize(
    "pattern",
    [
        "*", "a", "none", "*.csv", ".*", "[ab].csv", "?.csv", "[!a].csv", "sub/*", "*/*", "*/c*",
        "sub/deep/c.csv", "**/*", "**/*.csv", "**/c.csv", "sub/**/c.csv", "**/deep/*", "**/sub/**/*",
        "**/**/*.csv", "./*.csv", "link/*", "*/deep/c.csv", "**/link/*", "a.csv/*", "[", "*.CSV",
    ],
)  # fmt: skip
def test_a_pattern_matches_the_same_files_as_pathlib(root: Path, pattern: str) -> None:
    for name in (
        "a.csv",
        "b.csv",
        ".c.csv",
        "a",
        "[",
        "sub/c.csv",
        "sub/deep/c.csv",
        "sub/deep/sub/d",
        "other/deep/c.csv",
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    (root / "link").symlink_to(root / "sub")
    (root / "loop").symlink_to(root)
    expected = sorted({path.relative_to(root).as_posix() for path in root.glob(pattern) if path.is_file()})
    assert perform_file(root, list=pattern) == expected


def test_two_stars_at_the_end_match_every_file_below(root: Path) -> None:
    for name in ("a", "sub/b", "sub/deep/c"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    assert perform_file(root, list="**") == ["a", "sub/b", "sub/deep/c"]
    assert perform_file(root, list="sub/**") == ["sub/b", "sub/deep/c"]
    assert perform_file(root, list="a/**") == []


def test_a_folder_is_read_once_however_often_the_pattern_reaches_it(root: Path) -> None:
    folder = root
    for _ in range(40):
        folder /= "d"
        folder.mkdir()
    (folder / "f").touch()
    (path,) = perform_file(root, list="**/d/" * 12 + "f")
    assert path == "d/" * 40 + "f"
    assert perform_file(root, list="**/d/**/" * 12 + "none") == []


def test_a_search_without_matches_ends_at_its_deadline(root: Path) -> None:
    (root / "a").touch()

    def check() -> None:
        raise ActionError("Timeout", "the action ran out of time")

    for parts in (("**", "none"), ("none",)):
        with pytest.raises(ActionError, match="out of time"):
            list(find_files(root, parts, check))


def test_a_pattern_that_is_too_long_is_refused(root: Path) -> None:
    with pytest.raises(ActionError, match="longer than 4,096 characters") as caught:
        perform_file(root, list="*" * 5_000)
    assert caught.value.type == "FileError"


def test_the_number_of_listed_files_is_limited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MAX_FILES", 2)
    for name in "abc":
        (root / name).touch()
    assert perform_file(root, list="[ab]") == ["a", "b"]
    with pytest.raises(ActionError, match="more than 2 files") as caught:
        perform_file(root, list="*")
    assert caught.value.type == "LimitExceeded"


@pytest.mark.parametrize(
    ("format", "fits", "too_much"),
    [
        ("csv", "a,b\n1,2\n3,4\n", "a,b\n1,2\n3,4\n5,6\n"),
        ("csv", "a,b,c,d,e\n", "a,b,c,d,e,f\n"),
        ("csv", "a\n1\n2\n3\n4\n", 'a\n",,,\n,,"\n'),
        ("json", "[[], 1, 2]", "[[], 1, 2, 3]"),
        ("json", '[{"a": 1}, 2]', '[{"a": {}}, {}]'),
        ("jsonl", "1\n2\n3\n4\n", "1\n2\n3\n4\n5\n"),
    ],
)
def test_the_number_of_values_in_a_file_is_limited(
    root: Path, monkeypatch: pytest.MonkeyPatch, format: str, fits: str, too_much: str
) -> None:
    monkeypatch.setattr(_formats, "MAX_VALUES", 4)
    (root / "f").write_text(fits)
    assert perform_file(root, read="f", format=format) == decode(fits, format)
    (root / "f").write_text(too_much)
    reads: list[Callable[[], object]] = [
        lambda: perform_file(root, read="f", format=format),
        lambda: decode(too_much, format),
    ]
    for read in reads:
        with pytest.raises(ActionError, match="more than 4 values") as caught:
            read()
        assert (caught.value.type, caught.value.retryable) == ("LimitExceeded", False)


def test_the_size_of_a_csv_file_is_limited(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "MAX_BYTES", 3)
    (root / "f").write_text("a\n1\n")
    with pytest.raises(ActionError, match="longer than 3 bytes") as caught:
        perform_file(root, read="f", format="csv")
    assert caught.value.type == "LimitExceeded"


def test_reading_rows_ends_at_its_deadline() -> None:
    calls = []

    def check() -> None:
        calls.append(1)
        if len(calls) == 3:
            raise ActionError("Timeout", "the action ran out of time")

    with pytest.raises(ActionError, match="out of time"):
        read_csv(["\n"] * 5, check)


@pytest.mark.parametrize(
    ("format", "text"), [("json", "[" + "1," * 500_000 + "1]"), ("jsonl", "1\n" * 5), ("csv", "a\n" * 5)]
)
def test_reading_a_document_ends_at_its_deadline(format: str, text: str) -> None:
    checks = iter(range(100))

    def check() -> None:
        if next(checks) == 2:
            raise ActionError("Timeout", "the action ran out of time")

    with pytest.raises(ActionError, match="out of time"):
        decode(text, format, check=check)


@pytest.mark.parametrize("format", ["json", "jsonl", "csv"])
def test_a_cancellation_ends_the_reading_of_a_document(root: Path, format: str) -> None:
    (root / "f").write_text("1\n")
    tester = ActionTester("file", local_run_capabilities(root))
    tester.cancelled.set()
    with pytest.raises(CancelledError):
        tester.perform({"read": "f", "format": format})


def test_deleting_a_missing_file_succeeds(root: Path) -> None:
    (root / "a").write_text("xyz")
    assert perform_file(root, delete="a") == {"path": "a", "bytes": 3}
    assert perform_file(root, delete="a") == {"path": "a", "bytes": 0}
    (root / "folder").mkdir()
    with pytest.raises(ActionError, match="is a folder"):
        perform_file(root, delete="folder")


@pytest.mark.parametrize(
    ("path", "message"), [("missing", "no such file"), (".", "is a directory"), ("pipe", "not a file")]
)
def test_a_path_that_is_not_a_readable_file_is_an_error(root: Path, path: str, message: str) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(ActionError, match=message) as caught:
        perform_file(root, read=path)
    assert caught.value.type == "FileError"


def test_a_file_that_is_not_utf_8_is_an_error(root: Path) -> None:
    (root / "a").write_bytes(b"\xff")
    with pytest.raises(ActionError, match="not UTF-8"):
        perform_file(root, read="a")


def test_a_write_to_the_allowed_folder_puts_nothing_next_to_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    open_file = os.open

    def record(path: Any, flags: int, *arguments: Any, **names: Any) -> int:
        if flags & os.O_CREAT:
            written.append(str(path))
        return open_file(path, flags, *arguments, **names)

    monkeypatch.setattr(os, "open", record)
    with pytest.raises(ActionError, match="is a directory"):
        perform_file(root, write=".", content="x")
    assert written == []


def test_the_action_is_disabled_without_an_allowed_folder() -> None:
    with pytest.raises(ActionError, match="NOETL_FILES_ROOT") as caught:
        perform_action("file", capabilities=Capabilities(), read="a")
    assert (caught.value.type, caught.value.retryable) == ("ActionDisabled", False)
