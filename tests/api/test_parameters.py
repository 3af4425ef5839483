"""Query parameters and headers, checked."""

import pytest

from hopwall_api.parameters import (
    expectation,
    list_options,
    write_options,
    write_token,
)
from hopwall_api.problems import ApiProblem


@pytest.mark.parametrize(
    "query",
    [
        {"dryrun": "All"},
        {"dryRun": ""},
        {"wait": "Programmed"},
        {"timeout": "-1"},
        {"timeout": "1h"},
        {"timeout": "1e9"},
        {"timeout": "٣"},
    ],
)
def test_a_write_with_a_bad_parameter_is_refused(query: dict[str, str]) -> None:
    """A misspelt option never becomes a plain write."""
    with pytest.raises(ApiProblem) as refused:
        write_options(query, {})
    assert refused.value.status == 400


def test_write_options_have_the_documented_defaults() -> None:
    """Stored is enough, 30 seconds, not dry."""
    options = write_options({}, {})
    assert (options.dry, options.stage, options.timeout_s) == (False, "accepted", 30.0)
    assert write_options({"timeout": "2.5s"}, {}).timeout_s == 2.5


def test_prefer_gives_way_to_explicit_parameters() -> None:
    """`wait` and `timeout` in the query beat the header."""
    header = {"Prefer": "respond-async, wait=7"}
    preferred = write_options({}, header)
    assert (preferred.stage, preferred.timeout_s) == ("programmed", 7.0)
    assert write_options({"wait": "computed"}, header).stage == "computed"
    assert write_options({"wait": "computed", "timeout": "1"}, header).timeout_s == 1.0


@pytest.mark.parametrize("text", ["", "1", '"1', "W/1", '"1",', "*, *", '"' + "1" * 70 + '"'])
def test_an_if_match_that_is_no_list_of_tags_is_refused(text: str) -> None:
    """A precondition that cannot be read is an error, never "no precondition"."""
    with pytest.raises(ApiProblem):
        expectation({"If-Match": text}, create=False, version=None)


def listed(**query: str) -> object:
    """Parse a list's query."""
    return list_options(query, {}, kind="Node", namespace=None)


def test_a_token_is_good_for_its_own_list_only() -> None:
    """It carries revision and place back, and is bound to path and selector."""
    selector = 'a == "b"'
    options = list_options({"labelSelector": selector}, {}, kind="Node", namespace=None)
    token = write_token(7, ("ns", "name"), options.digest)
    again = list_options(
        {"labelSelector": selector, "continue": token}, {}, kind="Node", namespace=None
    )
    assert (again.at, again.after) == (7, ("ns", "name"))
    with pytest.raises(ApiProblem):
        listed(**{"continue": token})
    with pytest.raises(ApiProblem):
        list_options(
            {"labelSelector": selector, "continue": token}, {}, kind="Tier", namespace=None
        )


@pytest.mark.parametrize(
    "query",
    [
        {"continue": "é"},
        {"continue": "AAAA"},
        {"continue": "W10"},
        {"limit": "+1"},
        {"limit": "²"},
        {"limit": "99999"},
        {"watch": "yes"},
        {"resourceVersion": "1"},
        {"labelSelector": "a =~ b"},
        {"fieldSelector": "x"},
    ],
)
def test_a_list_with_a_bad_parameter_is_refused(query: dict[str, str]) -> None:
    """Each is 400, whatever it holds."""
    with pytest.raises(ApiProblem) as refused:
        listed(**query)
    assert refused.value.status == 400
