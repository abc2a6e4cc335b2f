"""Accounts on the chat port, sentence by sentence: register, log in, log out, profile, search, password."""

from __future__ import annotations

import threading

import pytest
import pytest_twisted
from argon2 import PasswordHasher
from chat_server import HASH, HASHER, PASSWORD, ChatServer, befriend, group_of
from twisted.internet.defer import Deferred, DeferredList

from flux.accounts.passwords import Passwords
from flux.accounts.rules import COMMON
from flux.errors import Unavailable
from flux.names import fold

GOOD = "a fine password"
HOME = "10.0.0.1"


@pytest_twisted.async_yield_fixture
async def server(tmp_path):
    server = await ChatServer(tmp_path).start()
    yield server
    await server.stop()


# --- register ----------------------------------------------------------------


async def test_register_answers_id_and_name(server: ChatServer) -> None:
    client = await server.connect()
    assert await client.ok("register", name="Ann", password=GOOD) == {"id": 1, "name": "Ann"}
    fields = {"email": "b@example.org", "nick": "bobby"}
    assert await client.ok("register", name="bob", password=GOOD, **fields) == {"id": 2, "name": "bob"}
    login = await client.ok("login", name="bob", password=GOOD)
    assert (login["id"], login["name"], login["nick"]) == (2, "bob", "bobby")


async def test_register_and_login_in_one_go(server: ChatServer) -> None:
    client = await server.connect()
    client.raw(
        b'{"type":"register","name":"ann","password":"a fine password"}\r\n'
        b'{"type":"login","name":"ann","password":"a fine password"}\r\n{"type":"chats"}\r\n'
    )
    for kind in ("register.ok", "login.ok", "chats.ok"):
        await client.told(kind)
    assert [line["type"] for line in client.lines] == ["register.ok", "login.ok", "chats.ok"]


@pytest.mark.parametrize(
    ("taken", "wanted"),
    [
        ("ann", "ann"),
        ("ann", "ANN"),
        ("straße", "STRASSE"),
        ("ａｎｎ", "ann"),
        ("Zoë", "ZOE\u0308"),
        ("ﬁsh", "FISH"),
        ("Ångström", "\u212bngstro\u0308m"),
        ("x²", "X2"),
        ("张三", "张三"),
    ],
)
async def test_names_are_unique_after_nfkc_and_case_folding(server: ChatServer, taken: str, wanted: str) -> None:
    client = await server.connect()
    await client.ok("register", name=taken, password=GOOD)
    assert await client.refused("register", name=wanted, password=GOOD) == "user_exists"
    assert (await client.ok("login", name=wanted, password=GOOD))["name"] == taken


async def test_different_names_stay_different(server: ChatServer) -> None:
    client = await server.connect()
    for name in ("ann", "anne", "änn", "a nn", "张三", "張三", "x" * 50, "\U0001f600" * 50):
        assert (await client.ok("register", name=name, password=GOOD))["name"] == name


@pytest.mark.parametrize(
    "name",
    [
        "a\nb",
        "a\rb",
        "a\tb",
        "\x1b[31mred",
        "a\x7f",
        "a\x85b",
        "a\u200bb",
        "\u202eevil",
        "a\u2028b",
        "\ufeffann",
        "\u00ad",
        "ann\ufe0f",
        "ann\u034f",
        "\U000e0101bob",
        "\u3164",
        "\uffa0",
        "\u2800",
        "a\u180bb",
        "a\u180fb",
        "a\u2065b",
        "a\ufff0b",
        "a\U000e0fffb",
    ],
)
async def test_names_have_no_control_characters(server: ChatServer, name: str) -> None:
    client = await server.connect()
    error = await client.fails("register", name=name, password=GOOD)
    assert (error["name"], error["detail"][:5]) == ("bad_request", "name:")


@pytest.mark.parametrize(
    "name", [" ", " ann", "ann ", "\u3000", "\u00a0x", "sam  smith", "sam\u00a0smith", "sam\u2003smith", "a \u3000b"]
)
async def test_names_are_no_blanks(server: ChatServer, name: str) -> None:
    client = await server.connect()
    assert await client.refused("register", name=name, password=GOOD) == "bad_request"


@pytest.mark.parametrize("name", ["sam  smith", "ann\ufe0f", "\u3164", "sam\u00a0smith"])
async def test_names_that_were_taken_before_log_in(server: ChatServer, name: str) -> None:
    [ann] = await server.register("ann")
    known = await server.store.credentials(ann, "")
    await server.store.create_account(name, fold(name), known.password_hash, "", "")
    client = await server.connect()
    assert (await client.ok("login", name=name, password=PASSWORD))["name"] == name
    assert [user["name"] for user in (await client.ok("user.search", query=name))["users"]] == [name]


async def test_names_have_1_to_50_characters(server: ChatServer) -> None:
    client = await server.connect()
    assert await client.refused("register", name="", password=GOOD) == "bad_request"
    assert await client.refused("register", name="x" * 51, password=GOOD) == "too_large"
    await client.ok("register", name="é" * 50, password=GOOD)


async def test_passwords_have_at_least_8_characters_and_at_most_1024_bytes(server: ChatServer) -> None:
    client = await server.connect()
    assert await client.refused("register", name="a", password="") == "password_invalid"
    assert await client.refused("register", name="a", password="é" * 7) == "password_invalid"
    assert await client.refused("register", name="a", password="x" * 1025) == "too_large"
    assert await client.refused("register", name="a", password="é" * 513) == "too_large"
    for number, password in enumerate(("é" * 8, "x" * 1024, "é" * 512, "\U0001f600" * 256)):
        await client.ok("register", name=f"user {number}", password=password)
        again = await server.connect()
        await again.ok("login", name=f"user {number}", password=password)
        # The whole password counts, not only its beginning.
        other = await server.connect()
        assert await other.refused("login", name=f"user {number}", password=password[:-1] + "?") == "password_invalid"


@pytest.mark.parametrize("password", ["password", "PassWord", "12345678", "qwertyuiop", "iloveyou"])
async def test_well_known_passwords_are_refused(server: ChatServer, password: str) -> None:
    client = await server.connect()
    assert password.casefold() in COMMON
    assert await client.refused("register", name="ann", password=password) == "password_invalid"
    assert await client.refused("login", name="ann", password=password) == "password_invalid"


async def test_a_failed_registration_takes_no_name(server: ChatServer) -> None:
    client = await server.connect()
    await client.fails("register", name="ann", password="short")
    assert (await client.ok("register", name="ann", password=GOOD))["id"] == 1


# --- log in ------------------------------------------------------------------


async def test_the_reply_to_a_login_shows_everything(server: ChatServer) -> None:
    ann, bob, cy = await server.people("ann", "bob", "cy")
    await ann.ok("profile.set", nick="Annie", description="me", sex="f", icon="i.png")
    await befriend(bob, ann)
    await ann.ok("friend.add", to=bob.id, remark="mate")
    await cy.ok("friend.add", to=ann.id, note="hello")
    group = await group_of(bob, ann)
    await bob.ok("send", to=ann.id, text="1")
    await bob.ok("send", group=group, text="2")
    last = await bob.ok("send", group=group, text="3")
    request_at = (await ann.ok("friend.requests"))["friend_requests"][0]["at"]
    again = await server.log_in("ann")
    assert again.lines[0] == {
        "type": "login.ok", "ref": "login", "protocol": 1, "server": "chat1",
        "id": ann.id, "name": "ann", "nick": "Annie", "description": "me", "sex": "f", "icon": "i.png",
        "friends": [{"id": bob.id, "name": "bob", "nick": "", "remark": "mate", "online": True}],
        "friend_requests": [{"from": cy.id, "name": "cy", "note": "hello", "at": request_at}],
        "groups": [{"group": group, "chat": group, "name": "group", "description": "", "role": "member"}],
        "unread": [
            {"chat": group, "group": group, "count": 2, "head": 2},
            {"chat": last["chat"] + 1, "to": bob.id, "count": 1, "head": 1},
        ],
    }  # fmt: skip


async def test_a_login_with_nothing_to_show(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    assert ann.lines == [
        {
            "type": "login.ok", "ref": "login", "protocol": 1, "server": "chat1", "id": 1, "name": "ann", "nick": "",
            "description": "", "sex": "", "icon": "", "friends": [], "friend_requests": [], "groups": [], "unread": [],
        }
    ]  # fmt: skip


async def test_login_by_id_by_name_and_by_token(server: ChatServer) -> None:
    [uid] = await server.register("ann")
    for identity in ({"id": uid}, {"name": "ann"}, {"name": "ANN"}):
        client = await server.connect()
        assert (await client.ok("login", **identity, password=PASSWORD))["id"] == uid
    token = await server.token(uid)
    for _ in range(2):  # a token may be used until it expires
        client = await server.connect()
        assert (await client.ok("login", id=uid, token=token, acks=True))["id"] == uid


@pytest.mark.parametrize(
    "fields",
    [
        {"password": PASSWORD},
        {"id": 1, "name": "ann", "password": PASSWORD},
        {"id": 1},
        {"name": "ann"},
        {"id": 1, "password": PASSWORD, "token": "x"},
        {"name": "ann", "token": "x"},
        {"token": "x"},
    ],
)
async def test_a_login_names_one_account_and_proves_it_in_one_way(server: ChatServer, fields: dict) -> None:
    await server.register("ann")
    client = await server.connect()
    assert await client.refused("login", **fields) == "bad_request"
    await client.ok("login", name="ann", password=PASSWORD)


async def test_a_wrong_password_and_an_unknown_account_look_the_same(server: ChatServer) -> None:
    await server.register("ann")
    client = await server.connect()
    answers = [
        await client.fails("login", ref="r", **identity, password=password)
        for identity, password in [
            ({"name": "ann"}, "wrong"), ({"id": 1}, ""), ({"name": "bob"}, PASSWORD), ({"id": 99}, PASSWORD),
            ({"name": "ann"}, PASSWORD + " "), ({"name": "ann"}, PASSWORD.upper()), ({"id": 2**63 - 1}, PASSWORD),
        ]
    ]  # fmt: skip
    assert {answer["name"] for answer in answers} == {"password_invalid"}
    assert answers.count(answers[0]) == len(answers)
    await client.ok("login", name="ann", password=PASSWORD)


async def test_an_unknown_account_costs_a_hash_like_any_other() -> None:
    from twisted.internet import reactor

    class Counting(PasswordHasher):
        verified = 0

        def verify(self, *arguments):
            self.verified += 1
            return super().verify(*arguments)

    hasher = Counting(time_cost=1, memory_cost=8, parallelism=1)
    passwords = Passwords(reactor, 1, hasher)
    passwords.start()
    try:
        for stored in (HASH, None, None):
            hasher.verified = 0
            assert await passwords.verify("decoy", stored, HOME) == (False, None)
            assert hasher.verified == 1
    finally:
        passwords.stop()


async def test_who_logs_in_does_not_wait_for_new_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    from twisted.internet import reactor

    done: list[str] = []
    begin = threading.Event()

    class Waiting(PasswordHasher):
        def hash(self, password, **options):
            assert begin.wait(10)
            done.append(password)
            return HASH

        def verify(self, stored, password):
            done.append(password)
            return True

    monkeypatch.setattr("flux.accounts.passwords.MAX_WAITING", 3)
    passwords = Passwords(reactor, 1, Waiting(time_cost=1, memory_cost=8, parallelism=1))
    passwords.start()
    try:
        # One is at work and three wait; those of who logs in have places of their own.
        waiting = [Deferred.fromCoroutine(passwords.hash(f"new {number}", HOME)) for number in range(4)]
        with pytest.raises(Unavailable, match="new passwords"):
            await passwords.hash("one more", HOME)
        waiting += [Deferred.fromCoroutine(passwords.verify(f"login {number}", HASH, HOME)) for number in range(3)]
        with pytest.raises(Unavailable, match="logins"):
            await passwords.verify("one more", HASH, HOME)
        assert passwords.waiting == 6
        begin.set()
        await DeferredList(waiting)
        assert done == ["new 0", "login 0", "login 1", "login 2", "new 1", "new 2", "new 3"]
    finally:
        begin.set()
        passwords.stop()


async def test_tokens_that_are_unknown_expired_or_revoked(server: ChatServer) -> None:
    ann, bob = await server.register("ann", "bob")
    client = await server.connect()
    for token in ("", "x", "é\U0001f600", "x" * 1024):
        assert await client.refused("login", id=ann, token=token) == "token_invalid"
    token = await server.token(ann, ttl=60.0)
    assert await client.refused("login", id=bob, token=token) == "token_invalid"
    assert await client.refused("login", id=99, token=token) == "token_invalid"
    await server.advance(61)
    assert await client.refused("login", id=ann, token=token) == "token_invalid"
    older, newer = await server.token(ann), await server.token(ann)
    assert await client.refused("login", id=ann, token=older) == "token_invalid"
    await client.ok("login", id=ann, token=newer)


async def test_a_second_login_on_one_connection_is_refused(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    assert await ann.refused("login", name="bob", password=PASSWORD) == "already_logged_in"
    assert await ann.refused("login", name="ann", password=PASSWORD) == "already_logged_in"
    await ann.ok("send", to=bob.id, text="still here")
    assert (await bob.told("message"))["from"] == ann.id


OPEN = {
    "register": {"name": "x", "password": GOOD},
    "login": {"name": "ann", "password": PASSWORD},
    "ping": {},
    "help": {},
}
BEHIND_A_LOGIN = {
    "logout": {}, "send": {"to": 1, "text": "x"}, "received": {"chat": 1, "seq": 1}, "read": {"chat": 1, "seq": 1},
    "history": {"to": 1}, "chats": {}, "typing": {"to": 1}, "friend.add": {"to": 1},
    "friend.answer": {"from": 1, "accept": True}, "friend.remove": {"id": 1}, "user.block": {"id": 1},
    "user.unblock": {"id": 1}, "friends": {}, "friend.requests": {}, "group.create": {"name": "x"},
    "group.join": {"group": 1}, "group.leave": {"group": 1}, "group.add": {"group": 1, "id": 1},
    "group.remove": {"group": 1, "id": 1}, "group.role": {"group": 1, "id": 1, "role": "admin"}, "groups": {},
    "group.members": {"group": 1}, "user.search": {"query": "x"}, "profile.get": {}, "profile.set": {},
    "password.change": {"old": "x", "new": GOOD},
}  # fmt: skip


async def test_what_needs_a_login_says_so_and_what_does_not_works(server: ChatServer) -> None:
    await server.register("ann")
    client = await server.connect()
    assert {each["type"] for each in (await client.ok("help"))["requests"]} == OPEN.keys() | BEHIND_A_LOGIN.keys()
    for kind, fields in BEHIND_A_LOGIN.items():
        assert await client.refused(kind, **fields) == "not_logged_in"
    for kind in ("ping", "help", "register", "login"):
        await client.ok(kind, **OPEN[kind])


async def test_a_hash_with_outdated_parameters_is_renewed_at_login(server: ChatServer) -> None:
    weak = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1, hash_len=16).hash(PASSWORD)
    uid = await server.store.create_account("ann", "ann", weak, "", "")
    await server.log_in("ann")
    credentials = await server.store.credentials(uid, "")
    assert credentials.password_hash != weak
    assert HASHER.verify(credentials.password_hash, PASSWORD)
    assert not HASHER.check_needs_rehash(credentials.password_hash)


async def test_a_login_is_answered_though_the_connection_says_more_at_once(server: ChatServer) -> None:
    await server.register("ann", "bob")
    client = await server.connect()
    client.tell("login", name="ann", password=PASSWORD)
    client.tell("send", to=2, text="hello")
    client.tell("history", to=2)
    client.tell("logout")
    assert [line["type"] for line in await client.ended()] == ["login.ok", "send.ok", "history.ok", "logout.ok"]


# --- takeover ----------------------------------------------------------------


@pytest.mark.parametrize("where", ["the same node", "another node"])
async def test_a_second_login_takes_over(server: ChatServer, where: str) -> None:
    first, second = server.nodes[0], server.nodes[0] if where == "the same node" else await server.start_node()
    await server.register("ann", "bob")
    older = await server.log_in("ann", first)
    bob = await server.log_in("bob", first)
    newer = await server.log_in("ann", second)
    assert await older.ended() == [{"type": "kicked", "reason": "takeover"}]
    await bob.ok("send", to=newer.id, text="for the newer")
    assert (await newer.told("message"))["text"] == "for the newer"
    await newer.ok("send", to=bob.id, text="from the newer")
    assert (await bob.told("message"))["text"] == "from the newer"
    await server.advance(20)
    assert await newer.settled() == []
    assert not newer.closed


async def test_many_logins_at_once_leave_one_session(server: ChatServer) -> None:
    nodes = [server.nodes[0], await server.start_node()]
    [uid] = await server.register("ann")
    clients = [await server.connect(nodes[number % 2]) for number in range(10)]
    for client in clients:
        client.tell("login", id=uid, password=PASSWORD)

    async def one_is_left() -> bool:
        return sum(not client.closed for client in clients) == 1

    await server.eventually(one_is_left)
    await server.advance(10)
    [left] = [client for client in clients if not client.closed]
    assert (await left.ok("profile.get"))["id"] == uid
    assert sum(len(running.node.sessions) for running in nodes) == 1
    for client in clients:
        if client is not left:
            assert client.lines[-1] == {"type": "kicked", "reason": "takeover"}


async def test_without_takeover_the_second_login_is_refused(server: ChatServer) -> None:
    server.reload(chat__takeover=False)
    first, second = server.nodes[0], await server.start_node(chat__takeover=False)
    [uid] = await server.register("ann")
    ann = await server.log_in("ann", first)
    for running in (first, second):
        late = await server.connect(running)
        assert await late.refused("login", name="ann", password=PASSWORD) == "already_logged_in"
        assert await late.refused("login", id=uid, token=await server.token(uid)) == "already_logged_in"
        assert await late.refused("chats") == "not_logged_in"
    assert await ann.settled() == []
    await ann.ok("logout")
    await late.ok("login", name="ann", password=PASSWORD)


async def test_without_takeover_only_one_of_many_at_once_gets_in(server: ChatServer) -> None:
    server.reload(chat__takeover=False)
    nodes = [server.nodes[0], await server.start_node(chat__takeover=False)]
    await server.register("ann")
    clients = [await server.connect(nodes[number % 2]) for number in range(6)]
    replies = []
    for client in clients:
        client.tell("login", ref="r", name="ann", password=PASSWORD)
    for client in clients:
        replies.append(await client.reply("r"))
    names = sorted(reply.get("name", "") for reply in replies)
    assert names == ["already_logged_in"] * 5 + ["ann"]


# --- log out -----------------------------------------------------------------


async def test_logout_comes_after_all_outstanding_replies_and_closes(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    for number in range(50):
        ann.tell("send", ref=number, to=bob.id, text=f"{number}")
    ann.tell("history", ref="h", to=bob.id)
    ann.tell("logout", ref="bye")
    ann.tell("ping", ref="too late")
    await ann.ended()
    assert [line["ref"] for line in ann.lines[1:]] == [*range(50), "h", "bye"]
    assert ann.lines[-1] == {"type": "logout.ok", "ref": "bye"}
    for number in range(50):
        assert (await bob.told("message"))["text"] == f"{number}"


async def test_logout_revokes_the_token(server: ChatServer) -> None:
    [uid] = await server.register("ann")
    token = await server.token(uid)
    client = await server.connect()
    await client.ok("login", id=uid, token=token)
    await client.ok("logout")
    await client.ended()
    client = await server.connect()
    assert await client.refused("login", id=uid, token=token) == "token_invalid"


# --- profile and search ------------------------------------------------------

EMPTY = {"nick": "", "description": "", "sex": "", "icon": ""}


async def test_profiles_are_set_field_by_field_and_seen_by_everybody(server: ChatServer) -> None:
    ann, bob = await server.people("ann", "bob")
    profile = {"id": ann.id, "name": "ann", **EMPTY}
    assert await ann.ok("profile.get") == profile
    for change in ({"nick": "Annie"}, {"description": "d" * 500}, {"sex": "f", "icon": "i"}, {"nick": ""}, {}):
        profile |= change
        assert await ann.ok("profile.set", **change) == profile
        assert await bob.ok("profile.get", id=ann.id) == profile
    assert await bob.ok("profile.get") == {"id": bob.id, "name": "bob", **EMPTY}
    assert await bob.refused("profile.get", id=99) == "user_invalid"
    assert await bob.refused("profile.set", nick="x" * 51) == "too_large"
    for nick in (" ", "\u3164", " \u200b\ufe0f", "\t"):
        assert await bob.refused("profile.set", nick=nick) == "bad_request"
    assert await (await server.connect()).refused("register", name="cy", password=GOOD, nick="\u2800") == "bad_request"
    await bob.ok("profile.set", nick="\u2764\ufe0f  bob")


async def test_no_request_shows_a_hash_an_address_or_a_token(server: ChatServer) -> None:
    client = await server.connect()
    uid = (await client.ok("register", name="ann", password=GOOD, email="secret@example.org"))["id"]
    token = await server.token(uid)
    await server.register("bob")
    ann = await server.connect()
    ann.id = (await ann.ok("login", id=uid, token=token))["id"]
    bob = await server.log_in("bob")
    await befriend(bob, ann)
    group = await group_of(bob, ann)
    await ann.ok("send", group=group, text="hello")
    for kind, fields in {
        "profile.get": {"id": uid},
        "user.search": {"query": "a"},
        "group.members": {"group": group},
    }.items():
        await bob.ok(kind, **fields)
    for kind in ("friends", "groups", "chats", "friend.requests"):
        await bob.ok(kind)
    seen = repr(bob.lines + ann.lines)
    assert "secret@example.org" not in seen
    assert token not in seen
    assert "$argon2" not in seen


async def test_search_by_prefix_folded_and_by_id(server: ChatServer) -> None:
    await server.register("Ann", "anna", "bob", "ANTON", "1a", "straße")
    [cy] = await server.people("cy")

    async def found(query: str, **limit: int) -> list[str]:
        return [user["name"] for user in (await cy.ok("user.search", query=query, **limit))["users"]]

    assert await found("an") == ["Ann", "anna", "ANTON"]
    assert await found("ＡＮＮ") == ["Ann", "anna"]
    assert await found("STRASS") == ["straße"]
    assert await found("1") == ["1a", "Ann"]
    assert await found("3") == ["bob"]
    assert await found("nn") == []
    assert await found("%") == await found("_") == []
    assert await found("an", limit=2) == ["Ann", "anna"]
    [user] = (await cy.ok("user.search", query="cy"))["users"]
    assert user == {"id": cy.id, "name": "cy", **EMPTY}
    assert await cy.refused("user.search", query="") == "bad_request"
    assert await cy.refused("user.search", query="x" * 51) == "too_large"
    assert await cy.refused("user.search", query="x", limit=0) == "bad_request"


# --- password.change ---------------------------------------------------------


async def test_a_changed_password_counts_from_then_on(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    token = await server.token(ann.id)
    assert await ann.ok("password.change", old=PASSWORD, new=GOOD) == {}
    assert await ann.settled() == []
    late = await server.connect()
    assert await late.refused("login", id=ann.id, token=token) == "token_invalid"
    assert await late.refused("login", name="ann", password=PASSWORD) == "password_invalid"
    await late.ok("login", name="ann", password=GOOD)


async def test_a_password_is_changed_by_whoever_knows_the_old_one_to_a_good_one(server: ChatServer) -> None:
    [ann] = await server.people("ann")
    token = await server.token(ann.id)
    assert await ann.refused("password.change", old="wrong", new=GOOD) == "password_invalid"
    assert await ann.refused("password.change", old=PASSWORD, new="short") == "password_invalid"
    assert await ann.refused("password.change", old=PASSWORD, new="Password123") == "password_invalid"
    assert await ann.refused("password.change", old=PASSWORD, new="é" * 513) == "too_large"
    late = await server.connect()
    await late.ok("login", id=ann.id, token=token)
    await late.ok("logout")
    await server.log_in("ann")
