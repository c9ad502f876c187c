"""Names, quantities, formats, schedules: the small grammars of Kubernetes."""

from __future__ import annotations

from fractions import Fraction

import pytest

from rayplane.gateway.backends.kubernetes.preflight import cron, names
from rayplane.gateway.backends.kubernetes.preflight.formats import FORMATS, UnreadableYaml, read_yaml
from rayplane.gateway.backends.kubernetes.preflight.quantity import quantity


@pytest.mark.parametrize(
    ("text", "worth"),
    [
        ("500m", Fraction(1, 2)),
        (2, Fraction(2)),
        ("1.5Gi", Fraction(3 * 2**29)),
        (".5", Fraction(1, 2)),
        ("5.", Fraction(5)),
        ("1e3", Fraction(1000)),
        ("1E", Fraction(10**18)),
        ("1E2", Fraction(100)),
        ("-1k", Fraction(-1000)),
        ("100n", Fraction(1, 10**7)),
        (0.5, Fraction(1, 2)),
        ("1 Gi", None),
        ("1GiB", None),
        ("", None),
        ("Gi", None),
        ("1K", None),
        (True, None),
        (None, None),
        ("١", None),
    ],
)
def test_a_quantity_is_worth_what_kubernetes_says(text: object, worth: Fraction | None) -> None:
    assert quantity(text) == worth


def test_each_kind_of_name_has_its_own_syntax() -> None:
    assert [names.label_1035(text) == "" for text in ("a", "a-1", "1a", "A", "a-", "a.b", "", "a" * 64)] == [
        *(True, True),
        *[False] * 6,
    ]
    assert [names.label_1123(text) == "" for text in ("1a", "a" * 63, "a_b", "-a")] == [True, True, False, False]
    assert [names.subdomain(text) == "" for text in ("a.b-1", "a..b", "a.-b", "a" * 254)] == [True, False, False, False]
    assert [names.label_value(text) == "" for text in ("", "A_1.b-c", "a b", "-a", "a" * 64)] == [
        *(True, True),
        *[False] * 3,
    ]
    assert [names.qualified(text) == "" for text in ("a", "x.io/A_b", "X.io/a", "/a", "a/b/c", "x.io/")] == [
        *(True, True),
        *[False] * 4,
    ]


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("date", "2026-02-28", "2026-02-30"),
        ("date-time", "2026-01-31T12:00:00.5+01:00", "2026-01-31 at noon"),
        ("duration", "1h30m", "1 hour"),
        ("byte", "aGk=", "h!"),
        ("uuid", "123E4567-e89b-12d3-a456-426614174000", "123"),
        ("ipv4", "10.0.0.1", "10.0.0.256"),
        ("ipv6", "fd00::1", "fd00::g"),
        ("cidr", "10.0.0.1/8", "10.0.0.1"),
        ("hostname", "ray.example.com", "-ray"),
        ("email", "me@example.com", "me"),
    ],
)
def test_a_format_accepts_valid_texts_and_refuses_others(form: str, good: str, bad: str) -> None:
    assert FORMATS[form].matches(good)
    assert not FORMATS[form].matches(bad)


@pytest.mark.parametrize(
    "schedule",
    [
        "* * * * *",
        "30 2 * * 1-5",
        "*/5 0-23/2 1,15 jan-mar MON",
        "0 0 ? * sun",
        "@daily",
        "@every 1h30m",
        "TZ=UTC 0 0 * * *",
        "5/15 * * * *",
    ],
)
def test_a_valid_schedule_has_no_problem(schedule: str) -> None:
    assert cron.wrong(schedule) == ""


@pytest.mark.parametrize(
    ("schedule", "said"),
    [
        ("", "is empty"),
        ("every night", "has 2 fields"),
        ("0 0 * * * *", "has 6 fields"),
        ("61 * * * *", "'61' for its minute"),
        ("* 24 * * *", "'24' for its hour"),
        ("* * 0 * *", "'0' for its day of the month"),
        ("* * * 13 *", "'13' for its month"),
        ("* * * * 7", "'7' for its day of the week"),
        ("*/0 * * * *", "the step '0'"),
        ("5-1 * * * *", "the backward range '5-1'"),
        ("a * * * *", "'a' for its minute"),
        ("@noon", "names no schedule"),
        ("@every soon", "names no schedule"),
    ],
)
def test_an_invalid_schedule_has_a_problem(schedule: str, said: str) -> None:
    assert said in cron.wrong(schedule)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 2024-13-01", {"a": "2024-13-01"}),
        ("a: =", {"a": "="}),
        (r"a: '\ud83c\udf89'", {"a": r"\ud83c\udf89"}),
        (r'a: "\\ud83c"', {"a": r"\ud83c"}),
        (r'a: "\u00e9\U0001f389🎉"', {"a": "é🎉🎉"}),
        ("a: 1\nb: [true, null, x]", {"a": 1, "b": [True, None, "x"]}),
        ("", None),
    ],
)
def test_yaml_is_parsed_as_the_operator_parses_it(text: str, value: object) -> None:
    assert read_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (r'a: "\ud83c\udf89"', r"line 1 has '\ud83c', which is half of a character"),
        ('a: 1\n"\\udc00": 2', r"line 2 has '\udc00'"),
        ('a: "\\U00110000"', "can't be read as YAML"),
        ('a: "\\UFFFFFFFF"', "can't be read as YAML"),
        ("a: [", "can't be read as YAML"),
        ("a: !!bool maybe", "can't be read as YAML"),
        ("a: !!timestamp now", "can't be read as YAML"),
        ("a: !!int x", "can't be read as YAML"),
        ("a: 0x_", "can't be read as YAML"),
        ("a: \x00", "can't be read as YAML"),
    ],
)
def test_yaml_that_the_operator_can_not_parse_is_refused_with_a_remedy(text: str, words: str) -> None:
    with pytest.raises(UnreadableYaml) as refused:
        read_yaml(text)
    assert words in refused.value.message
    assert refused.value.message[-1] not in ".!"
    assert refused.value.remedy.endswith(".")
