"""An authority and certificates of it, made by openssl for one test run."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Certificates:
    """An authority, a certificate of it for 127.0.0.1 (`peer`), and one of a `stranger`."""

    folder: Path

    def files(self, name: str) -> tuple[Path, Path]:
        """Certificate and key."""
        return self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"

    @property
    def authority(self) -> Path:
        return self.folder / "authority.pem"


def make_certificates(folder: Path) -> Certificates:
    made = Certificates(folder)
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-sha256"]
    for name in ("authority", "stranger"):
        certificate, key = made.files(name)
        subprocess.run(
            [*new, "-subj", f"/CN={name}", "-keyout", key, "-out", certificate], check=True, capture_output=True
        )
    certificate, key = made.files("peer")
    signed = ["-CA", made.authority, "-CAkey", made.files("authority")[1], "-addext", "subjectAltName=IP:127.0.0.1"]
    signed += ["-addext", "basicConstraints=critical,CA:FALSE"]
    subprocess.run(
        [*new, "-subj", "/CN=peer", *signed, "-keyout", key, "-out", certificate], check=True, capture_output=True
    )
    return made
