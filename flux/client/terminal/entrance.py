"""Before and after a session through a gate: as without one, and codes from e-mails."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from twisted.internet.interfaces import IReactorTime

from flux.client import Client, GateClient
from flux.client.terminal.chat import EXPECTED
from flux.client.terminal.face import Screen
from flux.client.terminal.start import Terminal
from flux.client.terminal.text import clean, dim, error, good
from flux.errors import BadRequest, CodeWrong, PasswordInvalid
from flux.wire.http import Purpose, Rules


class GateTerminal(Terminal):
    """One run of ``flux chat --gate``."""

    question = "(l)og in, (r)egister, (f)orgot the password or (q)uit? "
    letters = "Type l, r, f or q."
    who = "name or e-mail address"

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
        email = ""

        def register(password: str, code: str) -> Awaitable[object]:
            return self._gate.register(name, password, email=email, code=code)

        try:
            rules = await self._gate.rules()
            password = await self._new_password(rules.password_min)
            # Where no e-mail is sent an address is of no use to anybody.
            if rules.code_required or rules.codes_sent:
                email = await self._send_code("register", rules, needed=rules.code_required)
            password = await self._submit(register, password, rules, with_code=bool(email))
        except EXPECTED as problem:
            return self._failed(problem)
        self._screen.show(good(f"The account {name} is yours."))
        return await self._log_in(name, password)

    async def _forgotten(self) -> str:
        email = ""

        def reset(password: str, code: str) -> Awaitable[object]:
            return self._gate.reset_password(email, code, password)

        try:
            rules = await self._gate.rules()
            email = await self._send_code("reset", rules)
            password = await self._new_password(rules.password_min)
            password = await self._submit(reset, password, rules)
        except EXPECTED as problem:
            return self._failed(problem)
        self._screen.show(good("Your password was changed."))
        return await self._log_in(email, password)

    async def _send_code(self, purpose: Purpose, rules: Rules, needed: bool = True) -> str:
        """Have a code sent to the address that the person types; empty where that is nothing and none is ``needed``."""
        while True:
            if needed:
                email = await self._answer("e-mail address: ")
            else:
                email = (await self._screen.ask("e-mail address (or nothing): ")).strip()
            if not email:
                return ""
            try:
                await self._gate.request_code(email, purpose)
            except BadRequest as problem:
                self._failed(problem)
            else:
                self._screen.show(dim(_sent(email, rules)))
                return email

    async def _submit(
        self, use: Callable[[str, str], Awaitable[object]], password: str, rules: Rules, with_code: bool = True
    ) -> str:
        """Use a new password, and the code that the person types if there is one; slips of the finger are forgiven.

        :return: the password that was taken in the end.
        """
        code = ""
        while True:
            if with_code and not code:
                code = await self._answer("code from the e-mail: " if rules.codes_sent else "code: ")
            try:
                await use(password, code)
            except CodeWrong:
                self._screen.show(error("This is not the code. Type it again; Ctrl-C goes back."))
                code = ""
            except PasswordInvalid as problem:
                # The code is not used up: it is looked at after the password.
                self._failed(problem)
                password = await self._new_password(rules.password_min)
            else:
                return password


def _sent(email: str, rules: Rules) -> str:
    """Where the code is now, in words."""
    if rules.codes_sent:
        return f"An e-mail is on its way to {clean(email)}."
    return f"No e-mail is sent here: what {clean(email)} would get is in the log of the gate."
