"""Which buckets keep versions."""

from __future__ import annotations

from s3pool.proxy.conditions import TTL_S, Versioning


def test_bucket_is_asked_once_in_a_while() -> None:
    """Not for every upload, and not for ever."""
    now, asked = [0.0], []
    versioning = Versioning(now=lambda: now[0])

    def ask() -> str:
        asked.append(now[0])
        return ""

    answers = [versioning.is_absent("b", ask), versioning.is_absent("b", ask)]
    now[0] = TTL_S + 1
    answers.append(versioning.is_absent("b", ask))

    assert ([True] * 3, [0.0, TTL_S + 1]) == (answers, asked)


def test_change_is_noticed_at_once() -> None:
    """Somebody switches versions on through this very proxy."""
    versioning = Versioning(now=lambda: 0.0)
    before = versioning.is_absent("b", lambda: "")

    versioning.forget("b")

    assert (True, False) == (before, versioning.is_absent("b", lambda: "Enabled"))


def test_silence_counts_as_versions() -> None:
    """A second version is worse than an error."""
    assert Versioning().is_absent("b", lambda: None) is False
