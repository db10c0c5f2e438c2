import math
from pathlib import Path

import pytest

from hivemind.core.confinement import Network, Reuse, Seccomp
from hivemind.core.policy import Bound, Mount
from hivemind.settings import values


@pytest.mark.parametrize(
    ("read", "value", "meaning"),
    [
        (values.text, "", ""),
        (values.name, "x", "x"),
        (values.texts, ["a", "b"], ("a", "b")),
        (values.texts, [], ()),
        (values.choice("a", "b"), "b", "b"),
        (values.path, "/a/b", Path("/a/b")),
        (values.path, "a", Path.cwd() / "a"),
        (values.path, "~/a", Path.home() / "a"),
        (values.count, 0, 0),
        (values.at_least_one, 1, 1),
        (values.number, 0.5, 0.5),
        (values.signed, -3, -3),
        (values.size, 12, 12),
        (values.size, "1.5K", 1536),
        (values.duration, 1.5, 1.5),
        (values.duration, "2m", 120),
        (values.cpus, 1.5, 1500),
        (values.cpus, "0.5", 500),
        (values.cpus, 2, 2000),
        (values.flag, True, True),
        (values.flag, False, False),
        (values.mode(Network), "none", Network.NONE),
        (values.mode(Seccomp), "allow-list", Seccomp.ALLOW_LIST),
        (values.mode(Reuse), "account", Reuse.ACCOUNT),
        (values.limited_duration, "unlimited", math.inf),
        (values.limited_duration, "2m", 120),
        (values.limited_duration, 3, 3),
        (values.root, "host", "host"),
        (values.root, "/srv/root", "/srv/root"),
        (values.mounts, [], ()),
        (values.mounts, [{"source": "/a", "target": "/b/c"}], (Mount("/a", "/b/c"),)),
        (values.variables, {}, {}),
        (values.variables, {"TZ": "UTC", "_a1": ""}, {"TZ": "UTC", "_a1": ""}),
        (values.between(values.count, 2, 4, str), 2, 2),
        (values.between(values.count, 2, 4, str), 4, 4),
    ],
)
def test_a_value_means_what_it_says(
    read: values.Reader[object], value: object, meaning: object
) -> None:
    assert read(value) == meaning


@pytest.mark.parametrize(
    ("read", "value", "words"),
    [
        (values.text, 1, "text in quotes, not 1"),
        (values.name, "", "not empty"),
        (values.texts, "ann", "a list of texts, not 'ann'"),
        (values.texts, ["a", 1], "text in quotes, not 1"),
        (values.texts, [""], "not empty"),
        (values.choice("a", "b"), "c", "one of a, b, not 'c'"),
        (values.choice("a", "b"), ["a"], "one of a, b, not"),
        (values.path, "", "not empty"),
        (values.count, "3", "a whole number from 0, not '3'"),
        (values.count, True, "a whole number from 0, not True"),
        (values.count, 1.0, "a whole number from 0"),
        (values.count, -1, "a whole number from 0"),
        (values.count, 2**53, "a whole number from 0"),
        (values.at_least_one, 0, "a whole number from 1"),
        (values.number, math.nan, "a number from 0"),
        (values.number, math.inf, "a number from 0"),
        (values.number, -0.5, "a number from 0"),
        (values.number, False, "a number from 0"),
        (values.signed, 0.5, "a whole number"),
        (values.size, "512X", "'512X' is not a size"),
        (values.size, 1.5, 'a size such as "512M" or a number of bytes, not 1.5'),
        (values.size, -1, "a size such as"),
        (values.some_size, "0", "above 0"),
        (values.duration, "soon", "'soon' is not a duration"),
        (values.duration, [], "a duration such as"),
        (values.duration, math.inf, "a duration such as"),
        (values.some_duration, 0, "above 0"),
        (values.cpus, "many", "a number of CPUs"),
        (values.cpus, 0, "a thousandth"),
        (values.cpus, -1, "a number of CPUs"),
        (values.flag, 1, "expected true or false, not 1"),
        (values.flag, "yes", "expected true or false, not 'yes'"),
        (values.mode(Network), "all", "expected one of none, loopback, full, not 'all'"),
        (values.mode(Network), True, "expected one of none, loopback, full, not True"),
        (values.mode(Seccomp), "off", "expected one of allow-list, deny-list, not 'off'"),
        (values.mode(Reuse), "always", "expected one of never, job, account, not 'always'"),
        (values.limited_duration, "never", '"60s", or "unlimited", not \'never\''),
        (values.limited_duration, math.inf, 'a duration such as "60s", or "unlimited"'),
        (values.limited_duration, True, 'a duration such as "60s", or "unlimited"'),
        (values.root, "", '"host" or the absolute path of a folder'),
        (values.root, "srv/root", '"host" or the absolute path of a folder'),
        (values.root, "/srv/../etc", '"host" or the absolute path of a folder'),
        (values.root, "/", '"host" or the absolute path of a folder'),
        (values.root, "/a\0b", '"host" or the absolute path of a folder'),
        (values.root, ["host"], '"host" or the absolute path of a folder'),
        (values.mounts, {}, "a list of tables such as"),
        (values.mounts, ["/data"], "a list of tables such as"),
        (values.mounts, [{"source": "/a"}], "target is missing"),
        (values.mounts, [{"target": "/a"}], "source is missing"),
        (values.mounts, [{"source": "/a", "target": "/b", "rw": True}], "'rw' is not known"),
        (values.mounts, [{"source": "a", "target": "/b"}], "source: expected an absolute path"),
        (values.mounts, [{"source": 1, "target": "/b"}], "source: expected an absolute path"),
        (values.mounts, [{"source": "/a", "target": "b"}], "target: expected an absolute path"),
        (values.mounts, [{"source": "/a", "target": "/"}], "target: expected an absolute path"),
        (values.mounts, [{"source": "/a", "target": "/b/.."}], "target: expected an absolute"),
        (values.mounts, [{"source": "/a", "target": "/b//c"}], "target: expected an absolute"),
        (values.mounts, [{"source": "/a", "target": "/b\n"}], "target: expected an absolute"),
        (values.mounts, [{"source": "/a", "target": "/etc/x"}], "system's own folders, not '/etc"),
        (values.mounts, [{"source": "/a", "target": "/task"}], "outside of the system's own"),
        (values.mounts, [{"source": "/a", "target": "/b"}] * 2, "target '/b' is there twice"),
        (
            values.mounts,
            [{"source": "/a", "target": f"/b/{n}"} for n in range(65)],
            "at most 64 mounts, not 65",
        ),
        (values.variables, [], "a table of texts such as"),
        (values.variables, {"A B": ""}, "'A B' cannot name a variable"),
        (values.variables, {"A": 1}, "A: expected text in quotes, not 1"),
        (values.variables, {"A": "\0"}, "A: expected text in quotes"),
        (values.variables, {"HIVEMIND_TASK_ID": "x"}, "not a policy's to set"),
        (values.between(values.count, 2, 4, str), 1, "at least 2, not 1"),
        (values.between(values.count, 2, 4, str), 5, "at most 4, not 5"),
        (values.between(values.count, 2, 4, str), "3", "a whole number from 0, not '3'"),
    ],
)
def test_a_value_that_means_nothing_is_refused_with_what_was_expected(
    read: values.Reader[object], value: object, words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        read(value)


def test_what_is_shown_of_a_bad_value_is_short_and_one_line() -> None:
    with pytest.raises(ValueError) as caught:
        values.count("x\n" * 10_000)
    assert len(str(caught.value)) < 100
    assert "\n" not in str(caught.value)


BASE = Bound(default=512, most=1024)


@pytest.mark.parametrize(
    ("table", "meaning"),
    [
        ({}, BASE),
        ({"default": "64", "most": "2K"}, Bound(default=64, most=2048)),
        ({"default": 1}, Bound(default=1, most=1024)),
        ({"most": "4K"}, Bound(default=512, most=4096)),
        ({"most": 100}, Bound(default=100, most=100)),
    ],
)
def test_half_a_bound_keeps_the_other_half_and_its_default_within_its_most(
    table: dict[str, object], meaning: Bound
) -> None:
    assert values.bound(values.size, BASE)(table) == meaning


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (5, "a table such as"),
        ({"maximum": 5}, "maximum is not known: it has default and most"),
        ({"most": "lots"}, "most: 'lots' is not a size"),
        ({"default": 2048}, "its default is beyond its most"),
        ({"default": 5, "most": 4}, "its default is beyond its most"),
    ],
)
def test_a_bound_that_contradicts_itself_is_refused(table: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        values.bound(values.size, BASE)(table)


def test_a_default_may_be_below_zero_where_it_is_read_so_but_not_beyond_its_most() -> None:
    read = values.bound(values.count, Bound(default=0, most=10), read_default=values.signed)
    assert read({"default": -10}) == Bound(default=-10, most=10)
    with pytest.raises(ValueError, match="beyond its most"):
        read({"default": -11})
