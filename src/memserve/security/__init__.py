"""What the processes of one cluster know and nobody else, and when they need it."""
