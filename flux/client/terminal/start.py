"""Before and after a session: the menu, logging in, registering."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from twisted.internet.interfaces import IReactorTime

from flux.client import Client, NotConnected
from flux.client.terminal import actions as _actions  # noqa: F401 - fills the table of commands
from flux.client.terminal import render
from flux.client.terminal.chat import EXPECTED, Chat
from flux.client.terminal.face import EndOfInput, Interrupted, Screen
from flux.client.terminal.text import clean, dim, error, good
from flux.errors import PasswordInvalid


class Terminal:
    """One run of ``flux chat``.

    :param where: what is talked to, for the title.
    :param make_client: a client that has not logged in.
    """

    question = "(l)og in, (r)egister or (q)uit? "
    letters = "Type l, r or q."
    who = "name"

    def __init__(self, clock: IReactorTime, where: object, screen: Screen, make_client: Callable[[], Client]) -> None:
        self._clock = clock
        self._where = where
        self._screen = screen
        self._make_client = make_client
        self._client: Client | None = None
        self._name = ""
        self._closing = False

    async def run(self, user: str = "", password: str | None = None) -> None:
        """Until the person leaves.

        :param user: log in with this name at once.
        :param password: its password, if it need not be asked for.
        """
        with suppress(EndOfInput):
            chosen = ""
            while chosen != "quit" and not self._closing:
                try:
                    if user:
                        name, user = user, ""
                        chosen = await self._log_in(name, password)
                    else:
                        chosen = await self._choose()
                except Interrupted:
                    self._screen.show(dim("q or Ctrl-D leaves"))

    async def close(self) -> None:
        """End the run from outside: the process was asked to stop."""
        self._closing = True
        if self._client is not None:
            await self._client.close()
        self._screen.interrupt()

    async def _choose(self) -> str:
        """The menu, and what was chosen there; how that ended, as for :meth:`_log_in`."""
        self._screen.show([], [("class:title", "flux chat"), ("class:dim", f"  {self._where}")])
        while True:
            chosen = (await self._screen.ask(self.question)).strip().lower()
            if chosen in ("q", "quit"):
                return "quit"
            how = await self._go(chosen)
            if how:
                return how
            self._screen.show(dim(self.letters))

    async def _go(self, chosen: str) -> str:
        """Do what was chosen, and how that ended; empty where there is no such choice."""
        if chosen in ("l", "log in", "login"):
            default = f" ({clean(self._name)})" if self._name else ""
            return await self._log_in(await self._answer(f"{self.who}{default}: ", self._name), None)
        if chosen in ("r", "register"):
            return await self._register()
        return ""

    async def _answer(self, question: str, default: str = "") -> str:
        """What the person answers, which is something; ``default`` for nothing."""
        while True:
            answer = (await self._screen.ask(question)).strip() or default
            if answer:
                return answer

    async def _new_password(self, least: int = 1) -> str:
        """A password that was typed twice.

        :param least: number of characters that it has at least, as far as is known before the server is asked.
        """
        while True:
            password = await self._screen.ask("password: ", hidden=True)
            if len(password) < least:
                self._screen.show(error(f"A password has at least {render.counted(least, 'character')}."))
            elif await self._screen.ask("password again: ", hidden=True) != password:
                self._screen.show(error("The two passwords differ: type them again; Ctrl-C goes back."))
            else:
                return password

    async def _log_in(self, name: str, password: str | None) -> str:
        """Log in and chat; how it ended: ``quit``, ``logout``, ``ended``, or ``failed``."""
        self._name = name
        if password is None:
            password = await self._screen.ask(f"password of {name}: ", hidden=True)
        client = self._make_client()
        try:
            await self._enter(client, name, password)
        except EXPECTED as problem:
            return self._failed(problem)
        self._client = client
        try:
            return await Chat(client, self._screen, self._clock).run()
        finally:
            self._client = None

    async def _enter(self, client: Client, name: str, password: str) -> None:
        """Begin the session."""
        await client.login(name, password=password)

    async def _register(self) -> str:
        name = await self._answer("name: ")
        while True:
            password = await self._new_password()
            try:
                await self._make_client().register(name, password)
            except PasswordInvalid as problem:
                self._failed(problem)
            except EXPECTED as problem:
                return self._failed(problem)
            else:
                break
        self._screen.show(good(f"The account {name} is yours."))
        return await self._log_in(name, password)

    def _failed(self, problem: Exception) -> str:
        if isinstance(problem, NotConnected):
            told = f"{render.capitalised(str(problem))} Is a flux server running there? (twistd -n flux starts one.)"
        else:
            told = render.sentence(problem)
        self._screen.show(error(told))
        return "failed"
