"""Configuration: defaults, precedence, every mistake at once, what may change at run time."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux.addresses import HostPort
from flux.config import SECTIONS, ChatServer, ConfigError, Settings, is_local, keys, load, with_port

ETC = Path(__file__).parent.parent / "etc" / "flux.ini"


@pytest.fixture
def ini(tmp_path: Path) -> Any:
    def write(text: str) -> Path:
        path = tmp_path / "flux.ini"
        path.write_text(text, "utf-8")
        return path

    return write


def mistakes(path: Path | None = None, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return [str(mistake) for mistake in caught.value.mistakes]


# --- sources -----------------------------------------------------------------


def test_nothing_is_needed() -> None:
    settings = load()
    assert settings == Settings()
    assert settings.chat.listen == "tcp:8090:interface=127.0.0.1:backlog=4096"
    assert settings.status.token_ttl == 86400
    assert settings.limits.max_line == 131072
    assert settings.store.path == Path("flux-data/flux.db")


def test_set_beats_the_file_and_the_file_the_default(ini: Any) -> None:
    path = ini("[chat]\nname = from-file\ncapacity = 10\n")
    settings = load(path, ["chat.name=from-set", "chat.name=last-wins"])
    assert (settings.chat.name, settings.chat.capacity, settings.chat.weight) == ("last-wins", 10, 1)


def test_the_file_may_have_a_mark_blank_lines_comments_and_capital_keys(tmp_path: Path) -> None:
    path = tmp_path / "flux.ini"
    path.write_bytes(b"\xef\xbb\xbf# comment\r\n[chat]\r\n\r\n; another\r\n  Name = a.b-c\r\nadvertise =\r\n")
    settings = load(path)
    assert (settings.chat.name, settings.chat.advertise) == ("a.b-c", None)


def test_the_documented_file_is_the_table() -> None:
    """Every key once, in the order of the table, with its default and nothing else; (live) where it is live."""
    written: list[tuple[str, str, str, bool]] = []
    section, live = "", False
    for line in ETC.read_text("utf-8").splitlines():
        if line.startswith("["):
            section = line[1:-1]
        elif "=" in line and not line.startswith("#"):
            key, _, value = line.partition("=")
            written.append((section, key.strip(), value.strip(), live))
        elif line.startswith("# (live)"):
            live = True
        elif not line:
            live = False
    table = [(name, k.name, k.default, k.live) for name, section in SECTIONS.items() for k in keys(section).values()]
    assert written == table
    assert load(ETC) == Settings()


def test_the_documented_file_names_every_key_of_a_chat_server() -> None:
    example = re.search(r"# {5}\[old2\]\n((?:# {5}\w+ = .*\n)+)", ETC.read_text("utf-8"))
    assert example is not None
    assert set(re.findall(r"(\w+) =", example[1])) == set(keys(ChatServer))


# --- kinds of values ---------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("10", 10), ("10s", 10), ("5m", 300), ("24h", 86400), ("1d", 86400), ("1.5m", 90)]
)
def test_time_spans(text: str, seconds: float) -> None:
    assert load(None, [f"chat.heartbeat_timeout={text}"]).chat.heartbeat_timeout == seconds


@pytest.mark.parametrize(("text", "count"), [("4096", 4096), ("256k", 262144), ("2M", 2097152), ("1g", 2**30)])
def test_sizes(text: str, count: int) -> None:
    assert load(None, [f"chat.buffer={text}"]).chat.buffer == count


@pytest.mark.parametrize(
    ("text", "value"), [("yes", True), ("On", True), ("true", True), ("no", False), ("OFF", False)]
)
def test_yes_and_no(text: str, value: bool) -> None:
    assert load(None, [f"chat.takeover={text}"]).chat.takeover is value


@pytest.mark.parametrize(
    ("text", "address", "back"),
    [
        ("chat.example.org:8090", HostPort("chat.example.org", 8090), "chat.example.org:8090"),
        ("10.0.0.1:1", HostPort("10.0.0.1", 1), "10.0.0.1:1"),
        ("[::1]:65535", HostPort("::1", 65535), "[::1]:65535"),
    ],
)
def test_addresses(text: str, address: HostPort, back: str) -> None:
    assert load(None, [f"chat.advertise={text}"]).chat.advertise == address
    assert str(address) == back


@pytest.mark.parametrize(
    "text", ["tcp:0", "tcp6:8090:interface=\\:\\:1", "unix:/run/flux.sock", "haproxy:tcp:8090:interface=127.0.0.1"]
)
def test_endpoints(text: str) -> None:
    assert load(None, [f"chat.listen={text}"]).chat.listen == text


def test_a_class_of_the_users_own() -> None:
    settings = load(None, ["status.balancer=my_pkg.sticky.Sticky", "store.kind=a.B", "state.kind=a.C"])
    assert (settings.status.balancer, settings.store.kind, settings.state.kind) == (
        "my_pkg.sticky.Sticky",
        "a.B",
        "a.C",
    )


@pytest.mark.parametrize(
    ("override", "wrong"),
    [
        ("chat.capacity=lots", '"lots" is not a whole number; expected a whole number from 0 to 1000000000'),
        ("chat.capacity=-1", '"-1" is too small'),
        ("chat.capacity=²", '"²" is not a whole number'),
        ("chat.weight=1001", '"1001" is too large'),
        ("chat.heartbeat_timeout=5 minutes", '"5 minutes" is not a time span'),
        (
            "chat.heartbeat_timeout=0",
            '"0" is too small; expected a number of seconds, or one with s, m, h or d, from 1s',
        ),
        ("chat.buffer=1x", '"1x" is not a size'),
        ("chat.buffer=2g", '"2g" is too large'),
        ("chat.takeover=perhaps", '"perhaps" is neither yes nor no; expected yes or no'),
        ("chat.name=two words", '"two words" is not a name'),
        ("chat.advertise=8090", '"8090" is not host:port; expected host:port, or nothing'),
        ("chat.advertise=::1:8090", '"::1:8090" is not host:port'),
        ("chat.advertise=a..b:1", '"a..b" is not a host'),
        ("chat.advertise=a:70000", '"70000" is too large'),
        ("chat.listen=tpc:8090", "\"tpc:8090\" is not an endpoint: Unknown endpoint type: 'tpc'; expected a Twisted"),
        ("chat.listen=", '"" is not an endpoint'),
        ("chat.listen=tcp:http", '"tcp:http" is not an endpoint'),
        ("chat.websocket=8091", '"8091" is not an endpoint'),
        (
            "chat.websocket_url=https://a/ws",
            '"https://a/ws" is not the address of a WebSocket; expected wss://host/path',
        ),
        ("chat.origins=chat.example.net", '"chat.example.net" is not an origin; expected origins such as https://'),
        ("chat.origins=https://a/", '"https://a/" is not an origin'),
        ("gate.chat_via_gate=perhaps", '"perhaps" is unknown; expected auto, yes, no'),
        ("status.balancer=least_conections", '"least_conections" is unknown (did you mean least_connections?)'),
        ("store.kind=.x", '".x" is unknown; expected sqlite, postgres, or the dotted path of a class of your own'),
        ("store.path=", "this is not a path"),
        ("gate.listen=8080", '"8080" is not an endpoint'),
        ("gate.status=a:1,,b:2", '"a:1,,b:2" has nothing between two commas; expected host:port, several of them'),
        ("gate.status=a", '"a" is not host:port'),
        ("gate.require_code=maybe", '"maybe" is unknown; expected auto, yes, no'),
        ("gate.proxies=localhost", '"localhost" is not a list of addresses'),
        ("mail.sender=me", '"me" is not an e-mail address'),
        ("mail.host=a b", '"a b" is not a host'),
        ("mail.url=ftp://a/", '"ftp://a/" is not the address of a web service; expected https://host/path, or nothing'),
        ("mail.url=https://me@a/", '"https://me@a/" is not the address'),
        ("log.level=loud", '"loud" is unknown; expected debug, info, warn, error, critical'),
        ("chatservers.name=a,,b", '"" is not a name'),
        ("chatservers.name=a,a", '"a" stands there twice'),
    ],
)
def test_a_wrong_value_is_told_with_what_is_expected(override: str, wrong: str) -> None:
    key = override.partition("=")[0]
    [mistake] = mistakes(None, override)
    assert mistake.startswith(f"{key}: {wrong}")
    assert mistake.endswith(f"(--set {key})")


@given(st.sampled_from([(n, k) for n, s in SECTIONS.items() for k in keys(s)]), st.text(max_size=40))
def test_no_text_does_worse_than_a_mistake(key: tuple[str, str], text: str) -> None:
    with contextlib.suppress(ConfigError):
        load(None, [f"{'.'.join(key)}={text}"])


# --- mistakes ----------------------------------------------------------------


def test_all_mistakes_are_told_at_once(ini: Any) -> None:
    path = ini(
        "stray = 1\n"
        "[chat]\n"
        "nmae = foo\n"
        "buffer = 1\n"
        "kind = sqlite\n"
        "[limts]\n"
        "max_line = 1k\n"
        "[status]\n"
        "lease = 10\n"
        "lease = 20\n"
        "hunter2: a secret\n"
        "[broken\n"
    )
    found = mistakes(path, "chat.capacity=x", "nonsense", "limits.max_lines=1")
    assert found == [
        f'{path}: "stray" stands outside a section (line 1)',
        f"status.lease: is given twice, first in {path}, line 9 ({path}, line 10)",
        f'{path}: "hunter2:" begins a line that is neither key = value nor [section] (line 11)',
        f'{path}: "[broken" is not a [section] (line 12)',
        "--set nonsense: expected SECTION.KEY=VALUE",
        'chat.capacity: "x" is not a whole number; expected a whole number from 0 to 1000000000 (--set chat.capacity)',
        f'chat.buffer: "1" is too small; expected a number of bytes, or one with k, m or g, from 4k to 1g'
        f" ({path}, line 4)",
        f"[limts]: is no section, did you mean [limits]? ({path}, line 6)",
        f"chat.nmae: is no key, did you mean chat.name? ({path}, line 3)",
        f"chat.kind: is no key, did you mean store.kind? ({path}, line 5)",
        "limits.max_lines: is no key, did you mean limits.max_line? (--set limits.max_lines)",
    ]


def test_the_error_reads_as_a_list() -> None:
    with pytest.raises(ConfigError, match=re.escape("2 mistakes in the configuration:\n  chat.capacity: ")):
        load(None, ["chat.weight=0", "chat.capacity=x"])
    with pytest.raises(ConfigError, match=r"^1 mistake in the configuration:\n  chat\.weight: "):
        load(None, ["chat.weight=0"])


def test_a_key_like_no_other_lists_those_there_are() -> None:
    assert mistakes(None, "store.zzz=1") == [
        "store.zzz: is no key, there are kind, path, dsn, pool, require_fsync, keep_days (--set store.zzz)"
    ]


def test_an_unreadable_file(tmp_path: Path) -> None:
    assert mistakes(tmp_path / "none.ini") == [f"{tmp_path}/none.ini: cannot be read: No such file or directory"]
    (tmp_path / "latin.ini").write_bytes(b"[chat]\nname = \xe9\n")
    assert mistakes(tmp_path / "latin.ini") == [f"{tmp_path}/latin.ini: cannot be read: it is not UTF-8"]


def test_heartbeats_fit_into_the_lease() -> None:
    assert mistakes(None, "status.lease=5") == [
        "status.heartbeat: 3 s; expected at most half of status.lease (5 s) (the default)"
    ]
    assert load(None, ["status.lease=5", "status.heartbeat=2.5"]).status.heartbeat == 2.5


def test_what_another_key_needs_is_named_with_that_key(ini: Any) -> None:
    path = ini("[mail]\nkind = smtp\nsender =\n")
    assert mistakes(path) == [
        f"mail.host: is missing, and mail.kind = smtp needs it: a host name or an IP address ({path}, line 2)",
        "mail.sender: is missing, and mail.kind = smtp needs it: an e-mail address, or a name and <an address>"
        f" ({path}, line 3)",
    ]
    assert mistakes(None, "store.kind=postgres") == [
        "store.dsn: is missing, and store.kind = postgres needs it: env:NAME, file:/path or "
        "postgresql://user:password@host/database (--set store.kind)"
    ]
    # What is there and wrong is not missing.
    assert mistakes(None, "mail.kind=webhook", f"mail.secret={'x' * 16}", "mail.url=ftp://there") == [
        'mail.url: "ftp://there" is not the address of a web service; expected https://host/path, or nothing '
        "(--set mail.url)"
    ]


# --- secrets -----------------------------------------------------------------

KEY = "0123456789abcdef"


def test_secrets_from_the_environment_and_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_KEY", KEY)
    (tmp_path / "key").write_text(KEY + "\n", "utf-8")
    for text in ("env:FLUX_KEY", f"file:{tmp_path}/key", KEY):
        assert load(None, [f"status.cluster_key={text}"]).status.cluster_key == KEY


def test_secrets_are_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    assert KEY not in repr(load(None, [f"status.cluster_key={KEY}"]))
    monkeypatch.setenv("FLUX_KEY", "tooshort")
    for text in ("tooshort", "env:FLUX_KEY"):
        [mistake] = mistakes(None, f"status.cluster_key={text}")
        assert "tooshort" not in mistake
        assert "the secret is too short; expected env:NAME, file:/path or a text of at least 16" in mistake


def test_secrets_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLUX_EMPTY", "")
    [mistake] = mistakes(None, "status.cluster_key=env:FLUX_NONE")
    assert mistake.startswith("status.cluster_key: the environment has no FLUX_NONE; expected")
    [mistake] = mistakes(None, "status.cluster_key=env:FLUX_EMPTY")
    assert mistake.startswith("status.cluster_key: the secret is empty; expected")
    [mistake] = mistakes(None, f"status.cluster_key=file:{tmp_path}/none")
    assert mistake.startswith(f"status.cluster_key: {tmp_path}/none cannot be read: No such file or directory; exp")


def test_the_status_port_leaves_this_machine_only_with_a_key() -> None:
    [mistake] = mistakes(None, "status.listen=tcp:50052")
    assert mistake.startswith("status.listen: it hands out login tokens")
    assert load(None, ["status.listen=tcp:50052", f"status.cluster_key={KEY}"]).status.listen == "tcp:50052"


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("tcp:1", False),
        ("tcp:1:interface=127.0.0.1", True),
        ("tcp:port=1:interface=127.8.8.8:backlog=9", True),
        ("tcp:1:127.0.0.1", True),
        ("tcp:1:10.0.0.1", False),
        ("tcp:1:interface=localhost", True),
        ("tcp:1:interface=0.0.0.0", False),
        ("tcp6:1:interface=\\:\\:1", True),
        ("tcp6:1:interface=\\:\\:", False),
        ("ssl:1:privateKey=a.pem:interface=127.0.0.1", True),
        ("ssl:1:127.0.0.1", False),
        ("unix:/run/x", True),
        ("haproxy:tcp:1:interface=127.0.0.1", True),
        ("haproxy:tcp:1", False),
        ("systemd:domain=INET:index=0", False),
    ],
)
def test_what_only_this_machine_reaches(endpoint: str, local: bool) -> None:
    assert is_local(endpoint) is local


@pytest.mark.parametrize(
    ("endpoint", "other"),
    [
        ("tcp:8090", "tcp:7"),
        ("tcp:8090:interface=127.0.0.1:backlog=4096", "tcp:7:interface=127.0.0.1:backlog=4096"),
        ("tcp:interface=127.0.0.1:port=8090", "tcp:interface=127.0.0.1:port=7"),
        ("tcp:interface=127.0.0.1:8090", "tcp:interface=127.0.0.1:7"),
        (r"tcp6:8090:interface=fd00\:\:1", r"tcp6:7:interface=fd00\:\:1"),
        ("haproxy:tcp:8090:interface=10.0.0.1", "haproxy:tcp:7:interface=10.0.0.1"),
        ("ssl:8090:privateKey=/etc/key.pem", "ssl:7:privateKey=/etc/key.pem"),
    ],
)
def test_the_same_endpoint_on_another_port(endpoint: str, other: str) -> None:
    assert with_port(endpoint, 7) == other


# --- the static list ---------------------------------------------------------


def test_what_browsers_need() -> None:
    chat = load(None, ["chat.origins=https://A.example, http://b.example:8080,http://[::1]:1", "chat.websocket="]).chat
    assert chat.origins == ("https://a.example", "http://b.example:8080", "http://[::1]:1")
    assert load(None, ["chat.origins=*"]).chat.origins == ("*",)
    given = load(None, ["chat.websocket=tcp:8091", "chat.websocket_url=wss://chat.example.net/ws"]).chat
    assert (given.websocket, given.websocket_url) == ("tcp:8091", "wss://chat.example.net/ws")


def test_the_gate_and_its_mail(tmp_path: Path) -> None:
    given = load(
        None,
        ["gate.status=a:1, [::1]:2", "gate.proxies=10.0.0.0/8, ::1", "gate.listen=", "mail.kind=smtp",
         "mail.host=mail.example.net", "mail.sender=flux <chat@example.net>", "mail.user=a", "mail.password=b"],
    )  # fmt: skip
    assert [str(address) for address in given.gate.status] == ["a:1", "[::1]:2"]
    assert [str(network) for network in given.gate.proxies] == ["10.0.0.0/8", "::1/128"]
    assert given.gate.listen == ""
    assert "password='b'" not in repr(given)


def test_what_a_mailer_needs_and_what_it_must_not_do() -> None:
    assert [mistake.partition(":")[0] for mistake in mistakes(None, "mail.kind=smtp")] == ["mail.host", "mail.sender"]
    assert [mistake.partition(":")[0] for mistake in mistakes(None, "mail.kind=webhook")] == ["mail.url", "mail.secret"]
    smtp = ["mail.kind=smtp", "mail.sender=a@b", "mail.security=none"]
    assert load(None, [*smtp, "mail.host=mail.example.net"]).mail.host == "mail.example.net"
    [mistake] = mistakes(None, *smtp, "mail.host=mail.example.net", "mail.user=a")
    assert mistake.startswith("mail.security: the password would be sent unencrypted")
    assert load(None, [*smtp, "mail.host=127.0.0.1", "mail.user=a"]).mail.user == "a"
    webhook = ["mail.kind=webhook", f"mail.secret={KEY}"]
    [mistake] = mistakes(None, *webhook, "mail.url=http://example.net/")
    assert mistake.startswith("mail.url: the codes would be sent unencrypted")
    for url in ("https://example.net/", "http://localhost:8/x?y"):
        assert load(None, [*webhook, f"mail.url={url}"]).mail.url == url


@pytest.mark.parametrize(
    ("mail", "wanted", "required"),
    [
        ("log", "auto", False),
        ("log", "yes", True),
        ("smtp", "auto", True),
        ("smtp", "no", False),
        ("a.B", "auto", True),
    ],
)
def test_whether_a_code_is_required(mail: str, wanted: str, required: bool) -> None:
    needed = ["mail.host=a", "mail.sender=a@b"]
    assert load(None, [f"mail.kind={mail}", f"gate.require_code={wanted}", *needed]).require_code is required


def test_the_static_list_of_chat_servers(ini: Any) -> None:
    path = ini(
        "[chatservers]\nName = old1, old2.example\n"
        "[old1]\nHost = 10.0.0.1\nPort = 6000\n"
        "[old2.example]\nhost = ::1\nport = 1\nweight = 3\ncapacity = 7\n"
    )
    assert load(path, ["old2.example.port=2"]).chatservers == (
        ChatServer("old1", host="10.0.0.1", port=6000),
        ChatServer("old2.example", host="::1", port=2, weight=3, capacity=7),
    )


def test_mistakes_in_the_static_list(ini: Any) -> None:
    path = ini(
        "[chatservers]\nname = a,b,log\n[a]\nhost = h\n[b]\nhost = -\nport = 0\nprot = 1\n[c]\nhost = h\nport = 1\n"
    )
    assert mistakes(path) == [
        f"a.port: is missing; expected a whole number from 1 to 65535 for the chat server named in chatservers.name"
        f" ({path}, line 2)",
        f'b.host: "-" is not a host; expected a host name or an IP address ({path}, line 6)',
        f'b.port: "0" is too small; expected a whole number from 1 to 65535 ({path}, line 7)',
        "[c]: is no section, there are [chat], [status], [gate], [admin], [store], [state], [mail], [limits], "
        f"[chatservers], [tls], [log], [a], [b], and one for each name in chatservers.name ({path}, line 9)",
        f"b.prot: is no key, did you mean b.port? ({path}, line 8)",
        f'chatservers.name: "log" is the name of a section of its own; expected another name ({path}, line 2)',
    ]


# --- at run time -------------------------------------------------------------


def test_settings_are_frozen() -> None:
    settings = load()
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.chat.name = "other"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.chat = settings.chat  # type: ignore[misc]


def test_differences_are_sorted_into_live_and_restart() -> None:
    old = load()
    new = load(
        None,
        [
            "chat.name=other",
            "chat.takeover=no",
            "status.balancer=round_robin",
            "status.lease=20",
            "limits.max_line=64k",
            "log.level=debug",
            "chatservers.name=a",
            "a.host=h",
            "a.port=1",
        ],
    )
    assert old.difference(old) == ((), ())
    assert old.difference(new) == (
        ("chat.takeover", "status.balancer", "limits.max_line", "chatservers", "log.level"),
        ("chat.name", "status.lease"),
    )


def test_a_running_process_takes_only_what_is_live() -> None:
    old = load(None, ["chat.name=old"])
    new = load(None, ["chat.name=new", "chat.takeover=no", "chatservers.name=a", "a.host=h", "a.port=1"])
    merged = old.with_live(new)
    assert (merged.chat.name, merged.chat.takeover) == ("old", False)
    assert merged.chatservers == new.chatservers
    assert merged.difference(new) == ((), ("chat.name",))


def test_all_limits_and_timeouts_are_live() -> None:
    assert all(key.live for key in keys(SECTIONS["limits"]).values())
    live = {f"{n}.{k.name}" for n, s in SECTIONS.items() for k in keys(s).values() if k.live}
    assert {"chat.login_timeout", "chat.slow_timeout", "chat.heartbeat_timeout", "status.balancer"} <= live
