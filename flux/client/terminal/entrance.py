"""Before and after a session through a gate: as without one, and codes from e-mails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IReactorTime

from flux.client import Client, GateClient
from flux.client.terminal.chat import EXPECTED
from flux.client.terminal.face import Screen
from flux.client.terminal.start import Terminal
from flux.client.terminal.text import dim, error, good
from flux.errors import CodeWrong
from flux.wire.http import Purpose


class GateTerminal(Terminal):
    """One run of ``flux chat --gate``."""

    question = "(l)og in, (r)egister, (f)orgot the password or (q)uit? "
    letters = "Type l, r, f or q."
    who = "name or e-mail address: "

    def __init__(
        self, clock: IReactorTime, gate: GateClient, screen: Screen, make_client: Callable[[], Client]
    ) -> None:
        super().__init__(clock, gate.url, screen, make_client)
        self._gate = gate

    async def _go(self, chosen: str) -> str:
        if chosen in ("f", "forgot"):
            return await self._forgotten()
        return await super()._go(chosen)

    async def _enter(self, client: Client, name: str, password: str) -> None:
        name, email = ("", name) if "@" in name else (name, "")
        await client.login_through(self._gate.locator(name, password=password, email=email))

    async def _register(self) -> str:
        name = await self._answer("name: ")
        password = await self._new_password()
        if not password:
            return "failed"
        try:
            required = (await self._gate.rules()).code_required
            if required:
                email = await self._answer("e-mail address: ")
            else:
                email = (await self._screen.ask("e-mail address (or nothing): ")).strip()
            if email:
                await self._with_code(
                    email, "register", lambda code: self._gate.register(name, password, email=email, code=code)
                )
            else:
                await self._gate.register(name, password)
        except EXPECTED as problem:
            return self._failed(problem)
        self._screen.show(good(f"The account {name} is yours."))
        return await self._log_in(name, password)

    async def _forgotten(self) -> str:
        email = await self._answer("e-mail address: ")
        password = await self._new_password()
        if not password:
            return "failed"
        try:
            await self._with_code(email, "reset", lambda code: self._gate.reset_password(email, code, password))
        except EXPECTED as problem:
            return self._failed(problem)
        self._screen.show(good("Your password was changed."))
        return await self._log_in(email, password)

    async def _with_code(self, email: str, purpose: Purpose, use: Callable[[str], Awaitable[object]]) -> None:
        """Have a code sent, and use what the person types; a slip of the finger is forgiven."""
        await self._gate.request_code(email, purpose)
        self._screen.show(dim(f"An e-mail is on its way to {email}."))
        while True:
            try:
                await use(await self._answer("code from the e-mail: "))
            except CodeWrong:
                self._screen.show(error("This is not the code. Type it again; Ctrl-C goes back."))
            else:
                return
