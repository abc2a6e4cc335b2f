"""Mailers: what takes the gate's e-mail.

::

    Outbox ── bound, deadline, retries ──> SmtpPost      a mail server (twisted.mail)
                                      └──> WebhookPost   a web service of the admin's (treq)
    LogMailer                              the log, for development

A ``Post`` tries once and says how it ended; what to do about that is the outbox's.
"""

from flux.backends.mailers.log import LogMailer
from flux.backends.mailers.outbox import Outbox
from flux.backends.mailers.smtp import SmtpPost
from flux.backends.mailers.webhook import WebhookPost

__all__ = ["LogMailer", "Outbox", "SmtpPost", "WebhookPost"]
