"""Names shared by every room: ids, enums, errors, the clock. Imports nothing of memserve."""
