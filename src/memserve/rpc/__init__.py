"""Requests and replies between processes, typed, bounded and with deadlines; knows no decision."""
