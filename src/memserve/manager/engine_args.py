"""Options for vLLM's server as a user wrote them: which are given, with which value. Never changes them."""

from collections.abc import Sequence

from memserve.core.errors import ConfigError


def given(args: Sequence[str], *names: str) -> bool:
    """Whether any of the options is among `args`, as "--x v" or "--x=v", with dashes or underscores."""
    return any(_name(arg) in names for arg in args)


def value_of(args: Sequence[str], *names: str) -> str | None:
    """Value of the last of these options, as in argparse; None when absent. Raises ConfigError without a value."""
    found = None
    for at, arg in enumerate(args):
        if _name(arg) not in names:
            continue
        if "=" in arg:
            found = arg.partition("=")[2]
        elif at + 1 < len(args):
            found = args[at + 1]
        else:
            raise ConfigError(f"engine option {arg} has no value: write {arg} VALUE")
    return found


def number_of(args: Sequence[str], *names: str) -> int | None:
    """Like `value_of`, as a number of at least 1, with "8k" = 8,000 and "8K" = 8,192 as vLLM reads them."""
    text = value_of(args, *names)
    if text is None:
        return None
    digits, factor = (text[:-1], {"k": 1000, "K": 1024}[text[-1]]) if text[-1:] in {"k", "K"} else (text, 1)
    if not digits.isdecimal() or int(digits) < 1:
        raise ConfigError(f"engine option {names[0]} {text}: not a number of at least 1")
    return int(digits) * factor


def _name(arg: str) -> str:
    """The option without its value; "" when `arg` is no option."""
    if not arg.startswith("-"):
        return ""
    name = arg.partition("=")[0]
    return "--" + name[2:].replace("_", "-") if name.startswith("--") else name
