"""Why an instance ended, distilled from its log and exit code. Pure; knows the shapes of vLLM's logs.

vLLM reports one fault several times: the process that met it prints a traceback, and each process
above prints another that ends in "... See root cause above". The first says why.
"""

import re
import signal

_PREFIX = re.compile(r"^(\(\S+ pid=\d+\)|\x1b\[[0-9;]*m)\s?")
_RECORD = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]+\] ?")
_ERROR = re.compile(r"^(?:[A-Za-z_]\w*\.)*[A-Z]\w*(?:Error|Exception|Refused|Exceeded|Interrupt|Mismatch)\b(?::|$)")
_USAGE = re.compile(r"^[\w./-]+: error: ")
_ECHOES = ("see root cause above", "see stack trace for root cause", "see stack trace (above) for the root cause")
_NOT_CAUSES = ("KeyboardInterrupt", "SystemExit", "asyncio.exceptions.CancelledError")
_MAX_LINES = 6
_MAX_CHARACTERS = 600
_FOOTNOTE = "For further information visit"


def reason(log: str, exit_code: int) -> str:
    """One short text for an operator: the last cause in the log, and how the process ended.

    `exit_code` as a shell has it: 128 + n, or -n, when signal n ended the process.
    """
    lines = [_strip(line) for line in log.splitlines()]
    cause = _cause(lines)
    ended = _ended(exit_code)
    if cause:
        return f"{cause} ({ended})"
    last = [line for _, line in lines if line.strip()][-3:]
    return f"{ended}; its last output: {' | '.join(last)}" if last else f"{ended}, without any output"


def _strip(line: str) -> tuple[str, str]:
    """Level of a log record ("" for bare output) and the text behind all prefixes."""
    level = ""
    while found := _PREFIX.match(line) or _RECORD.match(line):
        if found.re is _RECORD:
            level = found[1]
        line = line[found.end() :]
    return level, line.rstrip()


def _cause(lines: list[tuple[str, str]]) -> str:
    for match in (_is_error, _is_usage, _is_error_record):
        for at in range(len(lines) - 1, -1, -1):
            if match(*lines[at]):
                return _with_continuation(lines, at)
    return ""


def _is_error(_level: str, text: str) -> bool:
    return bool(_ERROR.match(text)) and not text.startswith(_NOT_CAUSES) and not _is_echo(text)


def _is_usage(_level: str, text: str) -> bool:
    return bool(_USAGE.match(text))


def _is_error_record(level: str, text: str) -> bool:
    return level in ("ERROR", "CRITICAL") and bool(text) and not _is_echo(text) and not text.startswith(" ")


def _is_echo(text: str) -> bool:
    return any(echo in text.lower() for echo in _ECHOES)


def _with_continuation(lines: list[tuple[str, str]], at: int) -> str:
    """An exception's text may go on over indented lines, as pydantic's does."""
    level, text = lines[at]
    parts = [text]
    for more_level, more in lines[at + 1 : at + _MAX_LINES]:
        if more_level != level or not more.startswith(" ") or _FOOTNOTE in more or more.lstrip().startswith("File "):
            break
        parts.append(more.strip())
    whole = " ".join(parts)
    return whole if len(whole) <= _MAX_CHARACTERS else whole[:_MAX_CHARACTERS] + " …"


def _ended(exit_code: int) -> str:
    number = -exit_code if exit_code < 0 else exit_code - 128
    if number not in {int(s) for s in signal.Signals}:
        return f"exit code {exit_code}"
    name = signal.Signals(number).name
    hint = ", most likely because the machine ran out of memory" if number == signal.SIGKILL else ""
    return f"ended by {name}{hint}"
