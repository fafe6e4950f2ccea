"""The session as a state machine: who gets in, in which order, what takes the place of what, and 10,000 hostile messages."""

from __future__ import annotations

import random
import resource
from pathlib import Path

import msgpack
import numpy as np
import pytest
from server_parts import ABOUT, TOKEN, seen

from launch.packing import BadMessage, pack
from launch.server.about import About, Feature, Limits, check_info, features_of
from launch.server.messages import NONCE, PROTOCOL, Greeting, Hello, Observe, Ready, Reset, Welcome, decode, encode
from launch.server.seal import Seal, Unsealed, new_token, read_token, session_seals
from launch.server.session import Rate, Session, TooFast
from policies.errors import BadInput, NonFinite


def introduced(token: str = TOKEN, protocol: int = PROTOCOL) -> tuple[Session, Seal]:
    """A session whose client has said hello, and the client's seal for what comes next."""
    session = Session(TOKEN, ABOUT, Rate(1e9, 1e9))
    greeting = decode(session.greeting(), Greeting)
    nonce = b"n" * NONCE
    inward, out = session_seals(token, greeting.nonce, nonce)
    welcome = session.receive(nonce + out.close(encode(Hello(protocol, nonce, "arm"))), 0.0)
    assert decode(inward.open(session.say(welcome)), Welcome).about == ABOUT.to_message()
    return session, out


def observe(number: int) -> bytes:
    return encode(Observe(number, seen(), 1.0))


def test_what_is_served_survives_the_way() -> None:
    assert About.from_message(ABOUT.to_message()) == ABOUT


def test_a_client_with_the_token_gets_in_and_its_requests_wait() -> None:
    session, out = introduced()
    assert session.name == "arm"
    session.receive(out.close(encode(Reset(1, 7, {"task_description": "lift"}))), 0.0)
    session.receive(out.close(observe(2)), 0.0)
    assert session.next_task() == Reset(1, 7, {"task_description": "lift"})
    task = session.next_task()
    assert isinstance(task, Observe)
    assert task.request == 2
    assert not session.waiting


def test_the_latest_observation_wins_and_the_overtaken_are_counted() -> None:
    session, out = introduced()
    for number in (1, 2, 3):
        session.receive(out.close(observe(number)), 0.0)
    task = session.next_task()
    assert isinstance(task, Observe)
    assert task.request == 3
    assert session.skipped == 2
    assert session.next_task() is None


@pytest.mark.parametrize("token", [TOKEN[:-1] + "X", "", "x" * 500])
def test_another_token_is_refused(token: str) -> None:
    with pytest.raises(Unsealed):
        introduced(token)


def test_another_protocol_is_refused_with_both_numbers() -> None:
    with pytest.raises(BadMessage, match=f"speaks protocol {PROTOCOL}, the client 99"):
        introduced(protocol=99)


def test_a_message_that_is_repeated_left_out_changed_or_sent_back_is_refused() -> None:
    session, out = introduced()
    first, second, third = (out.close(observe(n)) for n in (1, 2, 3))
    session.receive(first, 0.0)
    for wrong in (
        first,
        third,
        second[:-1],
        second[:-1] + bytes([second[-1] ^ 1]),
        session.say(Ready(1)),
        b"",
        b"\0" * 40,
    ):
        with pytest.raises(Unsealed):
            session.receive(wrong, 0.0)
    session.receive(second, 0.0)


def test_a_recorded_session_cannot_be_played_again() -> None:
    recorded = Session(TOKEN, ABOUT)
    nonce = b"n" * NONCE
    _, out = session_seals(TOKEN, decode(recorded.greeting(), Greeting).nonce, nonce)
    hello = nonce + out.close(encode(Hello(PROTOCOL, nonce, "arm")))
    recorded.receive(hello, 0.0)
    with pytest.raises(Unsealed):
        Session(TOKEN, ABOUT).receive(hello, 0.0)


def test_requests_count_up_and_servers_words_are_not_taken_from_clients() -> None:
    session, out = introduced()
    session.receive(out.close(observe(5)), 0.0)
    with pytest.raises(BadMessage, match="count up"):
        session.receive(out.close(observe(5)), 0.0)
    session, out = introduced()
    with pytest.raises(BadMessage, match="expected: Reset, Observe"):
        session.receive(out.close(encode(Ready(1))), 0.0)


def test_too_many_messages_in_a_second_end_the_session_and_slow_ones_do_not() -> None:
    rate = Rate(per_second=10, burst=3)
    for _ in range(3):
        rate.take(0.0)
    with pytest.raises(TooFast, match="10 messages a second"):
        rate.take(0.05)
    rate = Rate(per_second=10, burst=3)
    for step in range(100):
        rate.take(step / 10)


def test_a_message_larger_than_any_observation_is_refused_before_its_seal_is_checked() -> None:
    session, out = introduced()
    with pytest.raises(BadMessage, match="observations of this policy take up to"):
        session.receive(out.close(b"\0" * (ABOUT.message_bytes + 1)), 0.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"state": np.zeros(4, np.float32)}, r"float32 of shape \(3,\), got float32 of shape \(4,\)"),
        ({"state": np.zeros(3)}, "got float64"),
        ({"state": [0.0, 0.0, 0.0]}, "got list"),
        ({"stat": np.zeros(3, np.float32)}, "did you mean 'state'"),
        ({"state": None}, "got NoneType"),
        ({"pixels": {}}, "'pixels/front' is missing"),
        ({"pixels": {"front": {"a": {"b": 1}}}}, "missing|not read"),
    ],
)
def test_observations_that_are_not_as_announced_are_refused(change: dict[str, object], reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        ABOUT.check_observation({**seen(), **change})


def test_non_finite_observations_strengths_beyond_limits_and_odd_infos_are_refused() -> None:
    with pytest.raises(NonFinite):
        ABOUT.check_observation({**seen(), "state": np.array([0, np.nan, 0], np.float32)})
    assert ABOUT.check_strength("slow", -1) == -1.0
    for value in (1.01, float("nan"), float("inf"), "1", True, None, [0.1]):
        with pytest.raises(BadInput, match="-1 to 1"):
            ABOUT.check_strength("slow", value)
    with pytest.raises(BadInput, match="did you mean 'slow'"):
        ABOUT.check_strength("slowly", 0.0)
    check_info({"task_description": "lift", "stage": 1, "is_success": False})
    for info in ({"task_description": "x" * 5000}, {"a": "text"}, {"a": [1]}, {"a" * 200: 1}):
        with pytest.raises(BadInput):
            check_info(info)


def test_features_of_an_example_with_text() -> None:
    found = features_of({**seen(), "instruction": "lift"})
    assert found == {**ABOUT.observation, "instruction": Feature("text")}
    for bad in ((0.0, 1.0, 2.0), (4.0, 1.0, 3.0), (0.0, float("-inf"), 1.0)):
        with pytest.raises(BadInput):
            Limits(bad[0], bad[1], bad[2])


def test_a_token_file_is_made_private_and_others_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "token"
    with pytest.raises(BadInput, match="is no file"):
        read_token(path)
    token = read_token(path, make=True)
    assert read_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(BadInput, match="others can read"):
        read_token(path)
    short = tmp_path / "short"
    short.write_text("secret")
    short.chmod(0o600)
    with pytest.raises(BadInput, match="at least 32 characters, got 6"):
        read_token(short)
    assert new_token() != new_token()


# ---- hostile messages


def hostile(rng: random.Random, good: bytes) -> bytes:
    """One message as an enemy who has the token might write it."""
    kind = rng.randrange(12)
    if kind == 0:
        return rng.randbytes(rng.randrange(300))
    if kind == 1:
        return good[: rng.randrange(len(good))]
    if kind == 2:  # changed in a few places
        changed = bytearray(good)
        for _ in range(rng.randrange(1, 6)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    if kind == 3:  # lengths that are not there
        return rng.choice([b"\xc6", b"\xdb", b"\xdd", b"\xdf", b"\xc9"]) + rng.randbytes(4) + rng.randbytes(20)
    if kind == 4:  # nested
        return rng.choice([b"\x91", b"\x81\xa1a", b"\xdc\x00\x01"]) * rng.choice([9, 600, 5000]) + b"\xc0"
    if kind == 5:  # small on the wire, large as objects
        return b"\xdc\xff\xff" + b"\xdc\xff\xff" + b"\x90" * 9000
    if kind == 6:  # arrays that lie about themselves
        head = bytes([rng.randrange(256), rng.randrange(12)]) + rng.randbytes(rng.randrange(40))
        return msgpack.packb(
            [
                "Observe",
                {
                    "request": 1,
                    "observation": {"state": msgpack.ExtType(1, head)},
                    "observed_at": 0.0,
                    "steered": True,
                    "strengths": {},
                },
            ]
        )
    if kind == 7:  # other extension types, times among them
        return msgpack.packb(
            ["Reset", {"request": 1, "seed": msgpack.ExtType(rng.randrange(128), rng.randbytes(8)), "info": {}}]
        )
    value = rng.choice(
        [None, True, -1, 2**63, 1.5, float("nan"), "x" * 2000, b"\x80\x04.", [], [[]], {}, {"a": {"b": 1}}, np.zeros(3)]
    )
    if kind == 8:  # a field of another type
        fields = {"request": 1, "observation": seen(), "observed_at": 0.0, "steered": True, "strengths": {}}
        fields[rng.choice([*fields, "more"])] = value
        return pack(["Observe", fields])
    if kind == 9:
        fields = {"request": 1, "seed": 0, "info": {}}
        fields[rng.choice([*fields, "__class__", "__reduce__"])] = value
        return pack(["Reset", fields])
    if kind == 10:
        return pack([rng.choice(["Hello", "Answer", "Message", "__import__", "os.system", 7, None, ["Reset"]]), {}])
    return pack(value)


def test_ten_thousand_hostile_messages_neither_crash_nor_fill_the_memory() -> None:
    """Half of them sealed with the right token: they reach the decoder and the checks of what is inside."""
    rng = random.Random(0)
    good = encode(Observe(1, seen(), 1.0))
    refused = taken = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(10_000):
        session, out = introduced()
        data = hostile(rng, good)
        try:
            session.receive(out.close(data) if number % 2 else data, 0.0)
            task = session.next_task()
            assert isinstance(task, Reset | Observe)
            if isinstance(task, Observe):
                ABOUT.check_observation(task.observation)
                for part, value in task.strengths.items():
                    ABOUT.check_strength(part, value)
            else:
                check_info(task.info)
            taken += 1
        except (BadMessage, BadInput, NonFinite):
            refused += 1
        assert not session.waiting
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert refused + taken == 10_000
    assert refused > 9_500  # what is left are changes that leave an observation an observation
    assert grown < 20, f"{grown:.0f} MB"
