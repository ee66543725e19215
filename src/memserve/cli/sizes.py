"""Amounts of memory as people read them, in the units that options take. Owns the rounding."""

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def size_text(num_bytes: int) -> str:
    """Three digits and the largest unit of which there is at least one, e.g. "512 MiB", "1.5 GiB"."""
    amount, unit = float(num_bytes), 0
    while amount >= 1024 and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    digits = 0 if amount >= 100 or unit == 0 else 1 if amount >= 10 else 2
    text = f"{amount:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.') if digits else text} {_UNITS[unit]}"
