# Copyright (c) 2026 The openclaw.backup contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What can be typed is what the help and docs/cli.md say, and what cannot be typed is answered in the house's form."""

from __future__ import annotations

import re
from argparse import Namespace
from pathlib import Path
from typing import Dict, List, Tuple

import pytest
from ansible_collections.openclaw.backup.plugins.module_utils.agent.arguments import COMMON, EXIT_CODES, PROGRAM, VERBS, overview, parse, parser_for
from ansible_collections.openclaw.backup.plugins.module_utils.agent.verbs import VERB_FUNCTIONS
from ansible_collections.openclaw.backup.plugins.module_utils.errors import UsageError

PAGE = (Path(__file__).resolve().parents[3] / "docs" / "cli.md").read_text()
SECTIONS: Dict[str, str] = dict(re.findall(r"^##+ ([^\n]+)\n(.*?)(?=^##|\Z)", PAGE, re.M | re.S))


def rows(text: str) -> List[Tuple[str, str]]:
    """The first two cells of each row of the tables in ``text``, without their heads."""
    found = re.findall(r"^\| (.+?)(?<!\\) \| (.+?) \|$", text, re.M)
    return [(first.replace("\\|", "|"), second) for first, second in found if first not in ("option", "code", "verb", "key", "variable")]


def parsed(*words: str) -> Namespace:
    request = parse(words)
    assert isinstance(request, Namespace)
    return request


def refused(*words: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        parse(words)
    assert caught.value.rc == 2
    return caught.value


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_lists_each_option_of_a_verb_and_no_other(verb: str) -> None:
    offered = {option.flag + (" " + option.metavar if option.metavar else "") for option in VERBS[verb].options}
    assert {cell.strip("`") for cell, _meaning in rows(SECTIONS[verb])} == offered


@pytest.mark.parametrize("verb", VERBS)
def test_the_parser_offers_what_the_tables_of_options_say(verb: str) -> None:
    flags = {flag for action in parser_for(verb)._actions for flag in action.option_strings}
    assert flags == {option.flag for option in (*VERBS[verb].options, *COMMON)}


@pytest.mark.parametrize("verb", VERBS)
def test_the_page_shows_the_same_usage_as_the_help(verb: str) -> None:
    text = parse([verb, "--help"])
    assert isinstance(text, str)
    usage = text.splitlines()[0].replace("usage: ", "")
    assert "```\n%s\n```" % usage in SECTIONS[verb]


def test_the_page_lists_the_common_options_the_verbs_and_the_exit_codes() -> None:
    common = [cell.split("`")[1].split()[0] for cell, _meaning in rows(SECTIONS["Options of every verb"])]
    assert common == [option.flag for option in COMMON]
    head = PAGE[: PAGE.index("## Options of every verb")]
    assert rows(head) == [("[`%s`](#%s)" % (name, name), verb.summary) for name, verb in VERBS.items()]
    assert rows(SECTIONS["Exit codes"]) == [(str(code), meaning) for code, meaning in EXIT_CODES]


def test_every_verb_that_is_offered_does_something() -> None:
    assert list(VERBS) == [*VERB_FUNCTIONS, "serve"]  # which has no policy


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_the_help_of_a_verb_explains_every_option_and_its_examples_can_be_typed(verb: str, flag: str) -> None:
    text = parse([verb, flag])
    assert isinstance(text, str)
    for option in (*VERBS[verb].options, *COMMON):
        assert "  " + option.flag in text
    for words, what in VERBS[verb].examples:
        assert "  %s %s\n      %s\n" % (PROGRAM, words, what) in text
        assert parsed(*re.sub(r"\$\([^)]*\)", "3", words).replace("'", "").replace(" 09:15", "").split()).verb == verb


def test_help_is_shown_even_where_the_rest_is_wrong() -> None:
    assert isinstance(parse(["run", "--nonsense", "--help"]), str)


def test_the_overview_names_every_verb_and_exit_code() -> None:
    assert parse(["--help"]) == parse(["-h"]) == overview()
    for name, verb in VERBS.items():
        assert re.search(r"^  %s +%s$" % (name, re.escape(verb.summary)), overview(), re.M)
    for code in EXIT_CODES:
        assert "  %d  %s\n" % code in overview()


def test_version() -> None:
    assert re.fullmatch(r"openclaw-backup \d+\.\d+\.\d+\n", str(parse(["--version"])))


def test_options_may_stand_anywhere_after_the_verb() -> None:
    expected = parsed("ls", "web", "20261120", "/srv", "--recursive", "--host", "web2")
    assert parsed("ls", "--recursive", "web", "--host=web2", "20261120", "/srv") == expected
    assert parsed("ls", "--host", "web2", "web", "20261120", "--recursive", "/srv") == expected


def test_what_was_not_given_is_none_false_or_empty() -> None:
    request = parsed("restore", "web")
    assert (request.policy, request.snapshot, request.path, request.delete, request.dest) == ("web", None, [], False, None)
    assert parsed("restore", "web", "--path", "/a", "--path", "/b").path == ["/a", "/b"]


@pytest.mark.parametrize(
    "words, message, field, advice",
    [
        ((), "A verb is missing", "verb", "`openclaw-backup --help`"),
        (("lst",), "There is no verb lst", "verb", "did you mean list?"),
        (("mount", "web"), "There is no verb mount", "verb", "`openclaw-backup --help`"),
        (("--json", "list"), "The verb comes first, before --json", "verb", "`openclaw-backup --help`"),
        (("run",), "run: the following arguments are required: POLICY", "POLICY", "`openclaw-backup run --help`"),
        (("run", "web", "--dryrun"), "run: unrecognized arguments: --dryrun", "--dryrun", "did you mean --dry-run?"),
        (("restore", "web", "--del"), "restore: unrecognized arguments: --del", "--del", "`openclaw-backup restore --help`"),
        (("run", "web", "--lap", "5"), "run: unrecognized arguments: --lap 5", "--lap", "`openclaw-backup run --help`"),
        (("list", "web", "more"), "list: unrecognized arguments: more", "more", "`openclaw-backup list --help`"),
        (("run", "web", "--host", "web2"), "run: unrecognized arguments: --host web2", "--host", "`openclaw-backup run --help`"),
        (("verify", "web", "--depth"), "verify: argument --depth: expected one argument", "--depth", "`openclaw-backup verify --help`"),
        (("run", "web", "--json=1"), "run: argument --json: takes no value", "--json", "`openclaw-backup run --help`"),
        (("li\x1b[2Jst",), "There is no verb li\\x1b[2Jst", "verb", "`openclaw-backup --help`"),
        (("run", ""), "run: POLICY is empty", "POLICY", "name the policy"),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_what_is_allowed_and_what_next(words: Tuple[str, ...], message: str, field: str, advice: str) -> None:
    error = refused(*words)
    assert (error.message.replace("argument --", "--"), error.field) == (message.replace("argument --", "--"), field)
    assert error.allowed and advice in str(error.next)


@pytest.mark.parametrize("words", ["run --nope", "run --host x", "run --accepted-loss", "restore --verify", "restore --depth quick", "list --sites"])
def test_an_option_that_does_something_else_is_not_proposed(words: str) -> None:
    verb, *rest = words.split()
    assert refused(verb, "web", *rest).next == "`openclaw-backup %s --help` explains them" % verb


def test_help_and_version_can_be_typed_as_words() -> None:
    assert parse(["help"]) == parse(["--help"])
    assert parse(["help", "run"]) == parse(["run", "--help"])
    assert parse(["version"]) == parse(["--version"])


@pytest.mark.parametrize("words", [["check", "web", "--explain", "/a", "--explain", "/b"], ["restore", "web", "--dest=/a", "--path", "/x", "--dest", "/b"]])
def test_a_value_that_is_given_twice_is_refused(words: List[str]) -> None:
    error = refused(*words)
    assert "given twice" in str(error) and error.field in ("--explain", "--dest")


def test_a_switch_and_what_repeats_may_be_given_twice() -> None:
    assert parsed("restore", "web", "--yes", "--yes", "--path", "/a", "--path", "/b").path == ["/a", "/b"]
