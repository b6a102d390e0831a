"""`snakemake --logger neurorad`: a live status in a terminal, one line a job elsewhere; failures name their log."""

from __future__ import annotations

import os
import sys
import threading
import time
from logging import ERROR, WARNING, Handler, LogRecord
from typing import TYPE_CHECKING, Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from neurorad.progress import Progress, duration, last_words, stage_of

if TYPE_CHECKING:
    from rich.console import RenderableType

KEPT = ("Nothing to be done", "Unlocking", "Complete log")
"""How those of Snakemake's own remarks begin that a reader needs."""


class LogHandler(LogHandlerBase):
    """A dry run is told as Snakemake tells it."""

    def __post_init__(self) -> None:
        self._progress = Progress(time.time())
        self._plain = self._as_usual() if self.common_settings.dryrun else None
        terminal = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not self._plain
        self._screen = Screen(self._progress) if terminal else None

    def _as_usual(self) -> Handler:
        from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

        asked = self.common_settings
        return ColorizingTextHandler(
            nocolor=asked.nocolor,
            stream=sys.stdout if asked.stdout else sys.stderr,
            formatter=DefaultFormatter(asked.quiet, asked.show_failed_logs),
            filter=DefaultFilter(asked.quiet, asked.debug_dag, asked.verbose, asked.dryrun, asked.printshellcmds),
        )

    def emit(self, record: LogRecord) -> None:
        """One event of Snakemake, as a line of the log or in the live status."""
        if self._plain:
            self._plain.handle(record)
            return
        try:
            for line in self._lines(record):
                self._say(line)
        except Exception:
            self.handleError(record)

    def _lines(self, record: Any) -> list[str]:
        """What a record is worth telling, after the state has taken it in."""
        run, now = self._progress, record.created
        match getattr(record, "event", None):
            case LogEvent.RUN_INFO:
                run.plan(record.stats)
                return [f"{run.outlook(now)} to do"] if not self._screen else []
            case LogEvent.JOB_INFO:
                run.start(record.jobid, record.rule_name, dict(record.wildcards or {}), now)
            case LogEvent.JOB_FINISHED:
                ended = run.end(record.job_id, now)
                if ended and not self._screen:
                    rule, words, took = ended
                    return [f"{stage_of(rule):12}{words} done in {duration(took)} · {run.outlook(now)}"]
            case LogEvent.JOB_ERROR:
                words = run.fail(record.jobid, record.rule_name, record.log)
                return [f"FAILED {words}", *(line for log in record.log for line in _of_log(log))]
            case LogEvent.GROUP_ERROR | LogEvent.ERROR:
                return record.getMessage().splitlines()
            case None if record.levelno >= WARNING or record.getMessage().startswith(KEPT):
                # With keep-going, Snakemake repeats at the end what the failed jobs said.
                return record.getMessage().splitlines() if record.levelno != ERROR or not run.failures else []
        return []

    def _say(self, line: str) -> None:
        moment = time.strftime("%H:%M:%S")
        if self._screen:
            self._screen.say(f"{moment}  {line}")
        else:
            print(f"{moment}  {line}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Take the live status off the screen."""
        if self._screen:
            self._screen.close()
            self._screen = None
        failures = self._progress.failures
        if failures:
            print(f"\n{len(failures)} jobs failed; their logs:", file=sys.stderr)
            for words, logs in failures:
                print(f"  {words}: {', '.join(logs) or 'no log'}", file=sys.stderr)
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """To the terminal."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Never."""
        return False

    @property
    def has_filter(self) -> bool:
        """Its own: only what is worth telling."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Its own."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """Never."""
        return False


def _of_log(log: str) -> list[str]:
    return [f"  log: {log}", *(f"  | {line}" for line in last_words(log))]


class Screen:
    """The live table. What jobs write to the terminal is caught, so that it cannot tear the table: the newest line is shown
    below it, and all of it is in the jobs' logs."""

    def __init__(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.live import Live

        self._progress, self._newest, self._closed = progress, "", False
        # The terminal stays reachable under a number of its own, while 1 and 2 lead into a pipe.
        self._kept = {number: os.dup(number) for number in (1, 2) if os.isatty(number)}
        self._terminal = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8")
        read_end, write_end = os.pipe()
        for number in self._kept:
            os.dup2(write_end, number)
        os.close(write_end)
        self._reader = threading.Thread(target=self._listen, args=(read_end,), daemon=True)
        self._console = Console(file=self._terminal, force_terminal=True)
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=2, transient=False)
        self._live.start()
        self._reader.start()

    def _listen(self, read_end: int) -> None:
        with os.fdopen(read_end, encoding="utf-8", errors="replace") as stream:
            for line in stream:
                if line.strip():
                    self._newest = line.strip()

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        for stage, done, total, running in self._progress.by_stage():
            shown = ", ".join(running[:3]) + (f" and {len(running) - 3} more" if len(running) > 3 else "")
            bar = ProgressBar(total=max(total, 1), completed=done, width=24)
            table.add_row(stage, bar, f"{done} of {total}", Text(shown, overflow="ellipsis", no_wrap=True))
        passed = duration(time.time() - self._progress.began)
        head = Text(f"{self._progress.outlook(time.time())} · {passed} so far", style="bold")
        return Group(head, table, Text(self._newest, style="dim", overflow="ellipsis", no_wrap=True))

    def say(self, line: str) -> None:
        """A line above the table, which stays."""
        self._console.print(line, markup=False, highlight=False)

    def close(self) -> None:
        """Give the terminal back."""
        if self._closed:
            return
        self._closed = True
        self._newest = ""
        self._live.stop()
        for number, kept in self._kept.items():
            os.dup2(kept, number)
            os.close(kept)
        self._terminal.flush()
