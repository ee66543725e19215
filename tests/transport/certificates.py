"""Certificates for tests, each from a CA of its own."""

from pathlib import Path

import trustme

from memserve.security.tls_files import TlsFiles


def made_tls(folder: Path) -> TlsFiles:
    authority = trustme.CA()
    member = authority.issue_cert("127.0.0.1")
    certificate, key, ca = (folder / f"{name}.pem" for name in ("certificate", "key", "ca"))
    member.cert_chain_pems[0].write_to_path(certificate)
    member.private_key_pem.write_to_path(key)
    authority.cert_pem.write_to_path(ca)
    return TlsFiles(certificate=str(certificate), key=str(key), ca=str(ca))
