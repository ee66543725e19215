"""`memserve secret`, and how every other command is given the cluster's secret, by file, and whom it trusts."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from memserve.cli.refusals import refusals
from memserve.security.gateway_access import GatewayAccess
from memserve.security.secret import ClusterSecret, Purpose, make_secret, read_secret

SecretFile = Annotated[
    Path | None,
    typer.Option(
        "--cluster-secret",
        envvar="MEMSERVE_CLUSTER_SECRET",
        help="File with the cluster's secret, as `memserve secret` makes one.",
    ),
]


CaFile = Annotated[
    Path | None,
    typer.Option(
        "--ca",
        envvar="MEMSERVE_CA",
        help="PEM file of the CA of the gateway's certificate, where the system does not trust it.",
    ),
]


def access(secret_file: Path | None, ca: Path | None) -> GatewayAccess:
    """What was typed to talk to a gateway. Raises ConfigError."""
    return GatewayAccess(secret=opened(secret_file), ca=str(ca.expanduser()) if ca else "")


def opened(file: Path | None) -> ClusterSecret | None:
    """Raises ConfigError."""
    return None if file is None else read_secret(file)


def secret(
    file: Annotated[Path, typer.Argument(help="Where it is, or is to be.")],
    *,
    admin_token: Annotated[
        bool, typer.Option("--admin-token", help="Print the token for the admin API of that secret's cluster.")
    ] = False,
) -> None:
    """Make a cluster secret: a new file that all processes of a cluster are given with --cluster-secret."""
    with refusals():
        if admin_token:
            sys.stdout.write(read_secret(file).token(Purpose.ADMIN_HTTP) + "\n")
            return
        make_secret(file)
        sys.stdout.write(f"{file} is the secret of a new cluster: give every process --cluster-secret {file}\n")
