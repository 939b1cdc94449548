"""The transport certificate of a running node and the authorities that it trusts, renewed without a restart.

The files in the home's tls/ are looked at every few seconds, and at once on SIGHUP. What is new is judged as
at the start. If it is good, it is used for every handshake from then on, and the links to the other members
are opened again with it; otherwise nothing changes, and the log says why. What is connected already stays
connected.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections.abc import Awaitable, Callable
from threading import Lock
from typing import Final

import grpc
from cryptography import x509

from replication.errors import OperatorError
from replication.identity.tls import authority_of
from replication.node.home import OpenedHome, check_transport

__all__ = ["Transport"]

LOOK_SECONDS: Final = 2.0
"""How often the files are looked at: three calls of stat(2)."""

WARN_BEFORE: Final = dt.timedelta(days=14)
"""How long before its end the certificate is complained about, once a day."""

_log = logging.getLogger(__name__)

_Signature = tuple[tuple[int, int, int], ...]


class Transport:
    """The certificate that the node shows. Made from an open home, whose files were judged."""

    def __init__(self, opened: OpenedHome) -> None:
        self._opened = opened
        self._files = opened.checked.tls
        self._shown = self._files
        self._showing = Lock()
        self._seen = self._signature()
        self._due = asyncio.Event()
        self._warned = dt.datetime.min.replace(tzinfo=dt.UTC)

    def server_credentials(self) -> grpc.ServerCredentials:
        """Credentials that show the current certificate at each handshake."""
        return grpc.dynamic_ssl_server_credentials(
            self._server_configuration(),
            self._new_server_configuration,  # type: ignore[arg-type]  # the stubs do not know of None
            require_client_authentication=True,
        )

    def channel_credentials(self) -> grpc.ChannelCredentials:
        """Credentials for connections to others, with the certificate of now."""
        files = self._files
        return grpc.ssl_channel_credentials(files.authorities, files.key, files.certificate)

    @property
    def certificate(self) -> bytes:
        """The certificate of now, PEM."""
        return self._files.certificate

    @property
    def authority(self) -> bytes:
        """The certificate of the authority that issued it, PEM."""
        return authority_of(self._files.certificate, self._files.authorities)

    @property
    def expires_ms(self) -> int:
        """When that certificate ends, in milliseconds since the Unix epoch."""
        end = x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc
        return round(end.timestamp() * 1000)

    def look_now(self) -> None:
        """Look at the files at once, changed or not."""
        self._seen = ()
        self._due.set()

    async def follow(self, renewed: Callable[[grpc.ChannelCredentials], Awaitable[None]]) -> None:
        """Watch the files for ever, and call `renewed` after each change to others that are good."""
        while True:
            self._warn()
            if self._changed():
                await renewed(self.channel_credentials())
            self._due.clear()
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._due.wait()
            except TimeoutError:
                continue

    def _changed(self) -> bool:
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            files = check_transport(self._opened)
        except OperatorError as error:
            # Between the two renames of a renewal the pair does not fit; the next look sees it whole.
            _log.warning("the transport certificate is not renewed, the one before stays: %s", error)
            return False
        if files == self._files:
            return False
        before, self._files = self._files, files
        if files.authorities != before.authorities:
            _log.info("authorities that are trusted from now on: %d", files.authorities.count(b"BEGIN"))
        if files.certificate != before.certificate:
            _log.info("the transport certificate is renewed, good until %s", self._expiry().isoformat())
        return True

    def _warn(self) -> None:
        now = dt.datetime.now(dt.UTC)
        if self._expiry() - now < WARN_BEFORE and now - self._warned > dt.timedelta(days=1):
            self._warned = now
            _log.warning(
                "the transport certificate ends at %s. Renew it: acp enrol renew %s",
                self._expiry().isoformat(),
                self._opened.home.path,
            )

    def _expiry(self) -> dt.datetime:
        return x509.load_pem_x509_certificate(self.certificate).not_valid_after_utc

    def _new_server_configuration(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC in a thread of its own, at each handshake. None: as before.

        A configuration is given once for each change, and never for every handshake: gRPC puts it in the
        place of the one before while other handshakes use that, and some hundred connections at once, from
        anybody, corrupted the heap of the process.
        """
        with self._showing:
            if self._shown is self._files:
                return None
            self._shown = self._files
            return self._server_configuration()

    def _server_configuration(self) -> grpc.ServerCertificateConfiguration:
        files = self._files
        return grpc.ssl_server_certificate_configuration([(files.key, files.certificate)], files.authorities)

    def _signature(self) -> _Signature:
        home = self._opened.home
        try:
            found = [path.stat() for path in (home.tls_certificate, home.tls_key, home.tls_authority)]
        except OSError:
            return ()
        return tuple((status.st_ino, status.st_mtime_ns, status.st_size) for status in found)
