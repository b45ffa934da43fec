"""Sends one mail with what a target is told.

Invariants:
    * With ``starttls`` or ``tls`` the server is verified, and nothing is sent in clear text.
    * The password's file must be closed to others; neither it nor the server's words about it are logged.
    * What devices and people wrote cannot add a header: control characters are replaced.
"""

from __future__ import annotations

import smtplib
import ssl
import stat
from collections.abc import Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Final

from wheeltapper_fleet.notify.settings import NotifySettings
from wheeltapper_fleet.notify.webhook import SendError

__all__ = ["send_mail"]

_TIMEOUT_SECONDS: Final = 10.0


def send_mail(settings: NotifySettings, to: str, told: Sequence[tuple[str, Sequence[str]]], now: float) -> None:
    """Send a mail.

    Args:
        settings: the mail server.
        to: the address.
        told: of each notification its title and the lines about it.
        now: Unix seconds, the mail's date.

    Raises:
        SendError: it was not taken.
    """
    if not settings.smtp_host:
        raise SendError("no mail server is configured: set smtp_host and mail_from in [notify]")
    mail = EmailMessage()
    mail["From"], mail["To"] = settings.mail_from, to
    mail["Date"], mail["Message-ID"] = formatdate(now), make_msgid(domain="wheeltapper.invalid")
    more = f" and {len(told) - 1} more" if len(told) > 1 else ""
    mail["Subject"] = f"[wheeltapper] {_line(told[0][0])}{more}"
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no absence note comes back
    mail.set_content(
        "\n\n".join("\n".join([_line(title), *(f"  {_line(each)}" for each in said)]) for title, said in told)
    )
    try:
        _submit(settings, mail)
    except smtplib.SMTPAuthenticationError as error:
        raise SendError(f"the mail server refuses the login (status {error.smtp_code})") from error
    except smtplib.SMTPRecipientsRefused as error:
        raise SendError("the mail server refuses the recipient") from error
    except (smtplib.SMTPException, OSError, ValueError) as error:
        raise SendError(f"the mail server did not take it: {type(error).__name__}") from error


def _submit(settings: NotifySettings, mail: EmailMessage) -> None:
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    place = (settings.smtp_host, settings.smtp_port)
    if settings.smtp_security == "tls":
        server: smtplib.SMTP = smtplib.SMTP_SSL(*place, timeout=_TIMEOUT_SECONDS, context=context)
    else:
        server = smtplib.SMTP(*place, timeout=_TIMEOUT_SECONDS)
    with server:
        if settings.smtp_security == "starttls":
            server.starttls(context=context)
        if settings.smtp_user:
            server.login(settings.smtp_user, _password(Path(settings.smtp_password_file)))
        server.send_message(mail)


def _password(file: Path) -> str:
    if stat.S_IMODE(file.stat().st_mode) & 0o077:
        raise SendError(f"{file} may be read by others: chmod 600")
    return file.read_text(encoding="utf-8").strip()


def _line(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)
