from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from noetl.executor.engine.rendering import check_kinds, render, render_parameters
from noetl.executor.errors import ActionError
from noetl.executor.model.sql import Bind, Sql, SqlIdentifier
from noetl.executor.security.secret_access import unrestricted_access
from noetl.executor.security.secret_sources import SecretReference
from noetl.planner.catalogue import ActionDeclaration, Kind, Parameter, Sink

NOTHING: dict[str, Any] = {}
PLAIN = Parameter((Kind.ANY,), "")
TRUSTED = Parameter((Kind.ANY,), "", secrets=True)
SQL = Parameter((Kind.STRING, Kind.ARRAY), "", sink=Sink.SQL)
SHELL = Parameter((Kind.STRING, Kind.ARRAY), "", sink=Sink.SHELL)
URL = Parameter((Kind.STRING,), "", sink=Sink.URL)


def rendered(value: Any, parameter: Parameter | None = PLAIN, **names: Any) -> Any:
    return render(value, parameter, names.__getitem__, unrestricted_access())


def refusal(value: Any, parameter: Parameter | None, **names: Any) -> ActionError:
    with pytest.raises(ActionError) as caught:
        rendered(value, parameter, **names)
    assert not caught.value.retryable
    return caught.value


def test_rendered_values_keep_their_types() -> None:
    names: dict[str, Any] = {"n": 1, "l": [1], "s": "x"}
    assert rendered(
        {"a": ["{{ n }}", " {{ l }} ", "n={{ n }}", "{{ s }}", 5, None], "{{ n }}": 1}, **names
    ) == {
        "a": [1, [1], "n=1", "x", 5, None],
        "{{ n }}": 1,
    }


def test_a_rejected_value_is_a_parameter_error() -> None:
    def refuses(value: Any) -> str | None:
        return "write `b`" if value == "a" else None

    declaration = ActionDeclaration(
        "test",
        "",
        {
            "open": Parameter((Kind.STRING,), "", rejection_reason=refuses),
            "hidden": Parameter((Kind.STRING,), "", rejection_reason=refuses, secrets=True),
        },
    )
    assert render_parameters(
        declaration, {"open": "{{ v }}"}, {"v": "b"}.__getitem__, unrestricted_access()
    ) == {"open": "b"}
    for name, shown in (("open", "`a`"), ("hidden", "text")):
        with pytest.raises(ActionError) as caught:
            render_parameters(declaration, {name: "{{ v }}"}, {"v": "a"}.__getitem__, unrestricted_access())
        assert (caught.value.type, caught.value.retryable) == ("ParameterError", False)
        assert caught.value.message == f"`{name}` cannot be {shown}: write `b`"


def test_text_of_a_raw_block_is_plain_text() -> None:
    assert type(rendered("{{ s | raw }}", s="x")) is str


@pytest.mark.parametrize(
    ("text", "type_"),
    [
        ("{{ missing }}", "UndefinedName"),
        ("{{ 1 / 0 }}", "TemplateError"),
        ("{{ 'x' * 10**9 }}", "LimitExceeded"),
    ],
)
def test_a_template_without_a_value_fails(text: str, type_: str) -> None:
    assert refusal(text, PLAIN).type == type_


class TestSqlRendering:
    def test_values_are_bound_and_names_are_quoted(self) -> None:
        sql = rendered(
            "select * from {{ t | identifier }} where a = {{ a }} and b = {{ b | raw }}",
            SQL,
            t="t",
            a=[1],
            b="c",
        )
        assert sql == Sql(("select * from ", SqlIdentifier("t"), " where a = ", Bind([1]), " and b = ", "c"))

    def test_each_statement_of_a_list_is_rendered(self) -> None:
        assert rendered(["a", "b {{ x }}"], SQL, x=1) == [Sql(("a",)), Sql(("b ", Bind(1)))]

    def test_only_the_raw_filter_inserts_text(self) -> None:
        assert rendered("select {{ x if true else (x | raw) }}", SQL, x="1").parts[1] == Bind("1")

    @pytest.mark.parametrize("text", ["{{ q }}", " {{ q }} ", "{{ q }}{{ q }}"])
    def test_a_statement_cannot_come_from_data(self, text: str) -> None:
        assert "cannot come from data" in refusal(text, SQL, q="drop table t").message

    def test_blocks_are_refused(self) -> None:
        assert refusal("select {% if true %}1{% endif %}", SQL).type == "ParameterError"

    def test_an_identifier_with_dots_is_one_name(self) -> None:
        assert SqlIdentifier('a"."b').quoted == '"a"".""b"'


class TestShellRendering:
    @pytest.mark.parametrize(
        ("value", "word"),
        [
            ("x", "x"),
            ("a b", "'a b'"),
            ("", "''"),
            (None, "''"),
            (5, "5"),
            (True, "true"),
            ([1, "a b"], "'[1,\"a b\"]'"),
            ("it's", "'it'\"'\"'s'"),
        ],
    )
    def test_each_value_is_one_word(self, value: Any, word: str) -> None:
        assert rendered("echo {{ v }} --x={{ v }}", SHELL, v=value) == f"echo {word} --x={word}"

    def test_raw_is_not_quoted(self) -> None:
        assert rendered("ls {{ v | raw }}", SHELL, v="-l -a") == "ls -l -a"

    def test_each_template_of_a_list_is_one_argument(self) -> None:
        assert rendered(["a", "x={{ v }}", "{{ n }}", 5, None], SHELL, v="b c", n=[1]) == [
            "a",
            "x=b c",
            "[1]",
            "5",
            "",
        ]

    def test_a_list_value_is_a_list_of_arguments(self) -> None:
        assert rendered("{{ v }}", SHELL, v=["echo", 1]) == ["echo", "1"]

    def test_a_command_from_one_value_is_one_word(self) -> None:
        assert rendered("{{ v }}", SHELL, v="rm -rf /") == "'rm -rf /'"


class TestUrlRendering:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("https://x.test/{{ v }}/b", "https://x.test/a%20b%2Fc%3F%23%25/b"),
            ("https://x.test/?q={{ v }}", "https://x.test/?q=a%20b%2Fc%3F%23%25"),
            ("https://x.test/#{{ v }}", "https://x.test/#a%20b%2Fc%3F%23%25"),
            ("{{ base }}/{{ v }}", "http://h:1/p/a%20b%2Fc%3F%23%25"),
            ("{{ base }}?q={{ v }}", "http://h:1/p?q=a%20b%2Fc%3F%23%25"),
            ("https://{{ host }}/x", "https://h/x"),
            ("{{ scheme }}://{{ host }}:{{ port }}/{{ v }}", "https://h:8/a%20b%2Fc%3F%23%25"),
            (" {{ base }} ", "http://h:1/p"),
            ("https://x.test/{{ v | raw }}", "https://x.test/a b/c?#%"),
            ("https://x.test/?a={{ none }}&b={{ true }}&c={{ [1] }}", "https://x.test/?a=&b=true&c=%5B1%5D"),
        ],
    )
    def test_values_inside_a_url_are_percent_encoded(self, text: str, expected: str) -> None:
        names = {"v": "a b/c?#%", "base": "http://h:1/p", "host": "h", "scheme": "https", "port": 8}
        assert rendered(text, URL, **names) == expected

    @pytest.mark.parametrize("value", ["..", "a/../b", "..\\a", "../..", None])
    def test_a_value_cannot_contain_a_parent_segment(self, value: Any) -> None:
        assert refusal("https://x.test/a/{{ v }}/b", URL, v=value).type == "ParameterError"

    @pytest.mark.parametrize(
        "text", ["/{{ d }}{{ d }}/b", "/.{{ d }}", "/{{ d }}", "/%2e{{ d }}?x=1", "/{{ d }}%2E/b"]
    )
    def test_a_template_cannot_build_a_dot_segment(self, text: str) -> None:
        assert refusal(f"https://x.test{text}", URL, d=".").type == "ParameterError"

    def test_dots_outside_of_the_path_are_kept(self) -> None:
        assert (
            rendered("https://x.test/{{ v }}?q={{ d }}", URL, v="a..b", d="..") == "https://x.test/a..b?q=.."
        )

    @pytest.mark.parametrize("value", [None, {"a": 1}, [1]])
    def test_a_url_from_a_non_text_value_is_refused(self, value: Any) -> None:
        assert refusal("{{ v }}", URL, v=value).type == "ParameterError"


class TestSecretRendering:
    @pytest.fixture(autouse=True)
    def secret(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("NOETL_SECRET_TOKEN", "token-of-a-test")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("{{ secrets.TOKEN }}", "token-of-a-test"),
            ("Bearer {{ secrets['TOKEN'] }}", "Bearer token-of-a-test"),
            ("{{ 'a:' ~ secrets.TOKEN }}", "a:token-of-a-test"),
            ("{{ secrets.TOKEN | upper }}", "TOKEN-OF-A-TEST"),
        ],
    )
    def test_secrets_are_revealed_in_parameters_that_accept_them(self, text: str, expected: str) -> None:
        assert rendered({"a": [text]}, TRUSTED) == {"a": [expected]}

    @pytest.mark.parametrize("parameter", [PLAIN, SQL, SHELL, URL])
    def test_secrets_are_refused_in_other_parameters(self, parameter: Parameter) -> None:
        error = refusal("select {{ secrets.TOKEN }}", parameter)
        assert (error.type, error.message) == ("ParameterError", "`secrets` is not allowed here")

    def test_secrets_in_args_are_references_until_they_are_used(self) -> None:
        args = rendered(
            {"token": "{{ secrets.TOKEN }}", "deep": {"list": ["{{ secrets.TOKEN }}"]}, "n": 1}, None
        )
        assert isinstance(args["token"], SecretReference)
        assert "token-of-a-test" not in f"{args} {args['token']}"
        assert rendered("{{ args.token }}", PLAIN, args=args) == "***"
        assert rendered("x {{ args.token | upper }}", TRUSTED, args=args) == "x TOKEN-OF-A-TEST"
        assert rendered("{{ args.deep }}", TRUSTED, args=args) == {"list": ["token-of-a-test"]}
        assert rendered("{{ args }}", TRUSTED, args=args)["token"] == "token-of-a-test"
        assert isinstance(args["token"], SecretReference)

    def test_text_around_a_secret_reference_is_refused(self) -> None:
        assert "must be passed alone" in refusal("Bearer {{ secrets.TOKEN }}", None).message

    def test_the_error_of_an_unknown_secret_names_its_setting(self) -> None:
        error = refusal("{{ secrets.MISSING }}", TRUSTED)
        assert error.type == "ParameterError"
        assert "NOETL_SECRET_MISSING" in error.message
        assert rendered("{{ secrets.MISSING | default('x') }}", TRUSTED) == "x"


DECLARATION = ActionDeclaration(
    type="try",
    description="",
    parameters={
        "text": Parameter((Kind.STRING,), "", required=True),
        "count": Parameter((Kind.INTEGER,), "", requires=("either",)),
        "either": Parameter((Kind.OBJECT, Kind.ARRAY), ""),
        "level": Parameter((Kind.STRING,), "", choices=("info", "error")),
        "size": Parameter((Kind.STRING, Kind.INTEGER), "", choices=("small", "large")),
        "part": Parameter((Kind.OBJECT,), "", fields={"a": Parameter((Kind.INTEGER,), "")}),
        "anything": Parameter((Kind.ANY,), ""),
    },
)


def test_all_parameters_of_an_action_are_rendered() -> None:
    given = {"text": "{{ x }}", "level": "INFO", "either": "{{ none }}", "anything": "{{ none }}"}
    assert render_parameters(DECLARATION, given, {"x": "y"}.__getitem__, unrestricted_access()) == {
        "text": "y",
        "level": "info",
        "anything": None,
    }


@pytest.mark.parametrize(("size", "expected"), [("LARGE", "large"), (5, 5), ("{{ n }}", 7)])
def test_only_a_text_is_compared_with_the_choices(size: Any, expected: Any) -> None:
    assert render_parameters(
        DECLARATION, {"text": "", "size": size}, {"n": 7}.__getitem__, unrestricted_access()
    ) == {
        "text": "",
        "size": expected,
    }


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (5, "`part` must be an object, not a number"),
        ([1], "`part` must be an object, not a list"),
        ("{{ {'a': 1} }}", "`part`: it must be a literal mapping, not a template"),
        ({"a": "{{ 'x' }}"}, "`a` must be a whole number, not text"),
    ],
)
def test_a_parameter_with_fields_is_a_literal_mapping(part: Any, message: str) -> None:
    with pytest.raises(ActionError) as caught:
        render_parameters(DECLARATION, {"text": "", "part": part}, NOTHING.__getitem__, unrestricted_access())
    assert (caught.value.type, caught.value.message) == ("ParameterError", message)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"text": 5}, "`text` must be text, not a number"),
        ({"text": None}, "`text` must be text, not none"),
        ({}, "missing parameter `text` of `try`"),
        ({"text": "", "count": True, "either": []}, "`count` must be a whole number, not true"),
        ({"text": "", "count": 1}, "missing parameter `either`, which `count` requires"),
        ({"text": "", "either": "x"}, "`either` must be an object or a list, not text"),
        ({"text": "", "level": "loud"}, "`level` must be one of info, error, not 'loud'"),
        ({"text": "", "other": 1}, "unknown parameter `other` of `try`"),
    ],
)
def test_the_error_names_a_parameter_of_the_wrong_kind(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(ActionError) as caught:
        check_kinds(DECLARATION, given)
    assert (caught.value.type, caught.value.retryable, caught.value.message) == (
        "ParameterError",
        False,
        message,
    )


def test_the_error_names_a_parameter_without_a_value() -> None:
    with pytest.raises(ActionError, match="`text`: ") as caught:
        render_parameters(DECLARATION, {"text": "{{ missing }}"}, NOTHING.__getitem__, unrestricted_access())
    assert (caught.value.type, caught.value.retryable) == ("UndefinedName", False)


def test_exactly_one_alternative_must_be_given() -> None:
    parameters = {name: Parameter((Kind.ANY,), "") for name in ("a", "b")}
    declaration = ActionDeclaration("try", "", parameters, one_of=("a", "b"))
    assert check_kinds(declaration, {"a": 1}) == {"a": 1}
    for given in ({}, {"a": 1, "b": 2}):
        with pytest.raises(ActionError, match="exactly one of `a`, `b`"):
            check_kinds(declaration, given)


def test_at_most_one_of_two_parameters_may_be_given() -> None:
    parameters = {name: Parameter((Kind.ANY,), "") for name in ("a", "b")}
    declaration = ActionDeclaration("try", "", parameters, at_most_one=("a", "b"))
    for given in ({}, {"b": 2}):
        assert check_kinds(declaration, given) == given
    with pytest.raises(ActionError, match="`try` must not have `a` and `b` together"):
        check_kinds(declaration, {"a": 1, "b": 2})


@pytest.mark.parametrize("text", ["{{ secrets.TOKEN | to_datetime }}", "{{ {}[secrets.TOKEN | upper] }}"])
def test_an_error_does_not_reveal_a_secret(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOETL_SECRET_TOKEN", "correct-horse")
    with pytest.raises(ActionError) as caught:
        render(
            text,
            Parameter((Kind.ANY,), "", secrets=True),
            dict[str, object]().__getitem__,
            unrestricted_access(),
        )
    assert "horse" not in caught.value.message.lower()
