"""One cluster on this machine, wired together: what `memserve serve`, the demo and the tests share."""
