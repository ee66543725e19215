"""One gateway as several processes at one port: worker 0 has the cluster manager, the others follow it."""
