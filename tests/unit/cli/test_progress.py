from __future__ import annotations

import pytest

from s3pool.cli.progress import BarProgress, PlainProgress, RunProgress, choose_mode, shorten
from tests.support.clock import Clock

MIB = 1 << 20


@pytest.mark.parametrize(
    ("wanted", "quiet", "json", "stderr_is_tty", "stdout_is_busy", "expected"),
    [
        ("auto", False, False, True, False, "bar"),
        ("auto", False, False, True, True, "plain"),
        ("auto", False, False, False, False, "plain"),
        ("auto", True, False, True, False, "none"),
        ("auto", False, True, True, False, "none"),
        ("bar", False, False, False, True, "bar"),
        ("none", False, False, True, False, "none"),
        ("plain", True, False, True, False, "plain"),
    ],
)
def test_bars_are_for_terminals(
    wanted: str, quiet: bool, json: bool, stderr_is_tty: bool, stdout_is_busy: bool, expected: str
) -> None:
    """Cron's mail holds no control characters, and a flag is the last word."""
    mode = choose_mode(wanted, quiet=quiet, json=json, stderr_is_tty=stderr_is_tty, stdout_is_busy=stdout_is_busy)

    assert expected == mode


def test_bytes_go_back_on_a_retry_and_on_a_failure(clock: Clock) -> None:
    """A bar beyond its end would be a lie."""
    tally = RunProgress(clock)
    tally.found(100)
    meter = tally.begin("a", 100)

    meter.advance(60)
    meter.advance(-60)
    after_retry = tally.bytes_done
    meter.advance(80)
    meter.end(ok=False)

    assert (0, 0, 0) == (after_retry, tally.bytes_done, tally.files_done)


def test_the_largest_transfers_are_shown(clock: Clock) -> None:
    """Small ones are over before their bar can be read."""
    tally = RunProgress(clock)
    for number, size in enumerate([1, 20 * MIB, 50 * MIB, 30 * MIB, 40 * MIB, 60 * MIB]):
        tally.begin(f"f{number}", size)

    assert ["f5", "f2", "f4", "f3"] == [label for label, _, _ in tally.largest()]


def test_line_comes_every_ten_seconds(clock: Clock) -> None:
    """Often enough to see life, seldom enough for a log."""
    lines: list[str] = []
    progress = PlainProgress(lines.append, clock)
    progress.found(4 * MIB)
    progress.all_found()
    meter = progress.begin("a", 4 * MIB)

    for _ in range(4):
        clock.advance(4)
        meter.advance(MIB)
    meter.end(ok=True)

    assert ["s3pool: 3.0MiB of 4.0MiB, 0 of 1 files, 256KiB/s, 4s left\n"] == lines


def test_totals_that_still_grow_are_marked(clock: Clock) -> None:
    """An estimate from half a listing would be wrong."""
    progress = RunProgress(clock)
    progress.found(10)
    clock.advance(1)

    assert "0B of 10B+, 0 of 1+ files, 0B/s" == progress.text()


def test_bars_are_drawn_and_get_out_of_the_way(capsys: pytest.CaptureFixture[str]) -> None:
    """An error line must not be drawn over."""
    progress = BarProgress()
    progress.start()
    progress.found(50 * MIB)
    meter = progress.begin("s3/b/large", 50 * MIB)
    meter.advance(10 * MIB)

    with progress.paused():
        print("between", flush=True)
    meter.end(ok=True)
    progress.stop()

    assert "between\n" == capsys.readouterr().out


def test_names_are_cut_in_the_middle_and_made_harmless() -> None:
    """A key may hold anything, a terminal must not obey it."""
    assert "a?b" == shorten("a\x1bb")
    assert "…" + "x" * 39 == shorten("y" * 50 + "x" * 39)
    assert "…wide 漢字.jpg" == shorten("a/very/long/path/to wide 漢字.jpg", 14)
    assert "e\u0301" * 40 == shorten("e\u0301" * 40)
    assert "\U0001f468\U0001f469.jpg" == shorten("\U0001f468\u200d\U0001f469.jpg")  # terminals differ on what is joined
