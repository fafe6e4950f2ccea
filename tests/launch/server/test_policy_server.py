"""Client and server over real sockets: answers, strengths, faults on either side, and hundreds of hostile connections."""

from __future__ import annotations

import dataclasses
import random
import resource
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from server_parts import ABOUT, TOKEN, Adder, seen
from test_session import hostile
from websockets.exceptions import WebSocketException
from websockets.frames import Frame
from websockets.http11 import Request
from websockets.sync.client import connect

from launch.loopback import is_loopback
from launch.packing import BadMessage
from launch.policy_inference import PolicyInference
from launch.server.about import Feature, features_of
from launch.server.client import Backoff, RemoteInference
from launch.server.messages import NONCE, PROTOCOL, Greeting, Hello, Observe, Refusal, decode, encode
from launch.server.seal import session_seals
from launch.server.server import PolicyServer, Settings
from launch.server.session import Session
from launch.server.start import about_of, seat_of, serve
from policies.errors import BadInput, NoAnswer, RunMismatch, ServerRefused, ServerUnreachable, SteerError


def wait_for(condition: Callable[[], bool]) -> None:
    """Let the threads work until it holds; a minute is a failure."""
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it never came true")


def remote(server: PolicyServer, **settings: Any) -> RemoteInference:
    return RemoteInference(server.url, TOKEN, **{"timeout": 30.0, "backoff": Backoff(0.0, 0.0), **settings})


def test_a_chunk_comes_back_with_the_strength_of_the_operator_within_the_limits() -> None:
    policy = Adder()
    with PolicyServer([policy], ABOUT, TOKEN) as server:
        client = remote(server)
        assert client.about == ABOUT
        client.reset(7, {"task_description": "lift"})
        chunk = client.infer(seen(1.0), observed_at=5.0)
        np.testing.assert_allclose(chunk.actions, [[3.0, 0.2]] * 2)
        assert chunk.actions.dtype == np.float32
        assert (chunk.dt, chunk.observed_at, chunk.number, chunk.steered) == (0.05, 5.0, 0, True)
        assert chunk.measures["entropy"] == 1.5
        client.set_strength("slow", -0.5)
        assert [(knob.part, knob.value, knob.low, knob.high) for knob in client.knobs()] == [("slow", -0.5, -1.0, 1.0)]
        assert client.infer(seen(2.0), 6.0).actions[0].tolist() == [6.0, -0.5]
        unsteered = client.infer(seen(2.0), 6.0, steered=False)
        assert unsteered.actions[0, 1] == 0
        assert not unsteered.steered
        with pytest.raises(BadInput, match="-1 to 1"):
            client.set_strength("slow", 2.0)
        assert client.infer(seen(2.0), 6.0).number == 3
        client.reset(8, {})
        assert client.infer(seen(2.0), 6.0).number == 0
        client.close()
        assert policy.resets == [(7, {"task_description": "lift"}), (8, {})]
    assert policy.closed


def test_the_server_holds_the_limits_whatever_a_client_sends() -> None:
    policy = Adder()
    with PolicyServer([policy], ABOUT, TOKEN) as server:
        client = remote(server)
        client.reset(0, {})
        client._strengths = {"slow": 50.0}  # a client that does not check
        with pytest.raises(BadInput, match="the limits of the recipe"):
            client.infer(seen(), 0.0)
        client._strengths = {}
        assert client.infer(seen(), 0.0).actions[0, 1] == np.float32(0.2)
        assert policy.strength == 0.2
        client.close()


def test_what_the_policy_raises_reaches_the_client_and_the_session_goes_on() -> None:
    with PolicyServer([Adder()], ABOUT, TOKEN) as server:
        client = remote(server)
        with pytest.raises(BadInput, match="before the first reset"):
            client.infer(seen(), 0.0)
        client.reset(0, {})
        with pytest.raises(BadInput, match="thirteen"):
            client.infer(seen(np.float32(13 / 3)), 0.0)
        with pytest.raises(ServerRefused, match="the policy raised RuntimeError: a bug"):
            client.infer(seen(4.0), 0.0)
        with pytest.raises(BadInput, match="'pixels/front' is missing"):
            client.infer({"state": np.zeros(3, np.float32)}, 0.0)
        assert client.infer(seen(), 0.0).actions[0, 0] == 3
        assert client.reconnects == 0
        client.close()


def test_late_answers_are_never_taken_for_newer_ones() -> None:
    policy = Adder()
    with PolicyServer([policy], ABOUT, TOKEN) as server:
        client = remote(server)
        client.reset(0, {})
        policy.gate.clear()
        client.timeout = 0.05
        for value in (1.0, 2.0, 3.0):
            with pytest.raises(NoAnswer, match=r"within 0.05 s"):
                client.infer(seen(value), 0.0)
        policy.gate.set()
        client.timeout = 30.0
        chunk = client.infer(seen(5.0), 0.0)
        assert chunk.actions[0, 0] == 15
        assert chunk.measures["skipped"] >= 1  # 2 or 3 was overtaken
        client.close()


def test_clients_have_policies_of_their_own_and_a_full_server_says_so() -> None:
    policies = [Adder(), Adder()]
    with PolicyServer(policies, ABOUT, TOKEN) as server:
        one, two = remote(server), remote(server)
        one.reset(1, {})
        two.reset(2, {})
        one.set_strength("slow", 1.0)
        assert one.infer(seen(), 0.0).actions[0, 1] == 1
        assert two.infer(seen(), 0.0).actions[0, 1] == np.float32(0.2)
        with pytest.raises(ServerRefused, match="all 2 seats"):
            remote(server)
        one.close()
        wait_for(lambda: len(server._connections) == 1)
        three = remote(server)
        with pytest.raises(BadInput, match="before the first reset"):  # not in the middle of the first client's episode
            three.infer(seen(), 0.0)
        three.reset(3, {})
        assert three.infer(seen(), 0.0).actions[0, 1] == np.float32(0.2)  # nor with its strength
        two.close()
        three.close()


def test_a_lost_connection_is_taken_up_again_with_episode_and_strengths() -> None:
    first, second = Adder(), Adder()
    with PolicyServer([first], ABOUT, TOKEN) as server:
        client = remote(server)
        client.reset(7, {"task_description": "lift"})
        client.set_strength("slow", 0.9)
        client.infer(seen(), 0.0)
        port = server._port
    with pytest.raises(ServerUnreachable):
        client.infer(seen(), 0.0)
    with PolicyServer([second], ABOUT, TOKEN, port=port) as server:
        chunk = client.infer(seen(), 0.0)
        assert chunk.actions[0, 1] == np.float32(0.9)
        assert chunk.measures["reconnects"] == 1
        assert second.resets == [(7, {"task_description": "lift"})]
        client.close()


def test_a_client_takes_its_seat_back_from_a_connection_that_only_the_server_believes_in() -> None:
    with PolicyServer([Adder()], ABOUT, TOKEN) as server:
        ghost = remote(server, name="arm")
        with pytest.raises(ServerRefused, match="all 1 seats"):
            remote(server, name="another")
        client = remote(server, name="arm")
        client.reset(0, {})
        assert client.infer(seen(), 0.0).actions[0, 0] == 3
        with pytest.raises(ServerUnreachable):
            ghost.reset(0, {})
        client.close()


def test_a_server_that_reads_nothing_more_holds_its_client_no_longer_than_the_timeout() -> None:
    """It shakes hands and then falls asleep, like a process that was stopped; the observation does not fit into the pipe."""
    large = dataclasses.replace(ABOUT, observation={"state": Feature("uint8", (16_000_000,))})
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)
    awake = threading.Event()

    def sleepy() -> None:
        from websockets.server import ServerProtocol

        pipe, _ = listener.accept()
        protocol, session = ServerProtocol(), Session(TOKEN, large)

        def events(wanted: type[Any]) -> Any:
            while True:
                for event in protocol.events_received():
                    if isinstance(event, wanted):
                        return event
                protocol.receive_data(pipe.recv(65536))

        def send(data: bytes) -> None:
            if data:
                protocol.send_binary(data)
            pipe.sendall(b"".join(protocol.data_to_send()))

        protocol.send_response(protocol.accept(events(Request)))
        send(session.greeting())
        welcome = session.receive(events(Frame).data, 0.0)
        assert welcome is not None
        send(session.say(welcome))
        awake.wait(60)
        pipe.close()

    thread = threading.Thread(target=sleepy, daemon=True)
    thread.start()
    client = RemoteInference(
        f"ws://127.0.0.1:{listener.getsockname()[1]}", TOKEN, timeout=0.3, backoff=Backoff(100, 100)
    )
    with pytest.raises((ServerUnreachable, NoAnswer)):
        client.infer({"state": np.zeros(16_000_000, np.uint8)}, 0.0)
    awake.set()
    thread.join()
    listener.close()


def test_attempts_wait_longer_and_longer_but_not_for_ever() -> None:
    backoff, now, waits = Backoff(0.1, 5.0), 0.0, []
    for _ in range(12):
        backoff.failed(now)
        waits.append(backoff.next_try - now)
        now = backoff.next_try
    assert 0.05 <= waits[0] <= 0.1
    assert 0.1 <= waits[1] <= 0.2
    assert all(2.5 <= wait <= 5 for wait in waits[7:])
    backoff.succeeded()
    assert backoff.next_try == 0.0
    with PolicyServer([Adder()], ABOUT, TOKEN) as server:
        client = remote(server, backoff=Backoff(100, 100))
    with pytest.raises(ServerUnreachable):
        client.reset(0, {})
    with pytest.raises(ServerUnreachable, match="next attempt is in"):
        client.reset(0, {})


def test_a_server_that_came_back_with_something_else_is_refused() -> None:
    with PolicyServer([Adder(), Adder()], ABOUT, TOKEN) as server:
        client, port = remote(server), server._port
        with pytest.raises(RunMismatch, match="serves adder with recipe 'r1', expected is 'r2'"):
            RemoteInference(server.url, TOKEN, recipe="r2")
    with PolicyServer([Adder()], dataclasses.replace(ABOUT, recipe="other"), TOKEN, port=port):
        with pytest.raises(ServerUnreachable):
            client.reset(0, {})
        with pytest.raises(RunMismatch, match="recipe other"):
            client.reset(0, {})


def test_wrong_tokens_wrong_addresses_and_browsers_are_turned_away() -> None:
    with PolicyServer([Adder()], ABOUT, TOKEN) as server:
        with pytest.raises(ServerRefused, match="Compare the tokens"):
            RemoteInference(server.url, TOKEN + "x")
        with pytest.raises(WebSocketException):
            connect(server.url, origin="http://evil.example", proxy=None)  # type: ignore[arg-type]
        with pytest.raises(BadInput, match="cannot listen"):
            PolicyServer([Adder()], ABOUT, TOKEN, port=server._port).__enter__()
    with pytest.raises(ServerUnreachable, match="steer-agents serve"):
        RemoteInference(server.url, TOKEN)
    with pytest.raises(BadInput, match="at least 32"):
        PolicyServer([Adder()], ABOUT, "short")


def test_a_client_that_does_not_read_is_dropped_and_nobody_waits_for_it() -> None:
    """It asks on and on, while the answers pile up in a pipe that it keeps small."""
    slow, quick = Adder(), Adder()
    slow.infer = lambda observation, at, steered=True: _large(at)  # type: ignore[method-assign]
    settings = Settings(messages_per_second=1e6, burst=1e6, send_s=0.5)
    with PolicyServer([slow, quick], ABOUT, TOKEN, settings=settings) as server:
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", server._port))
        rude = connect(server.url, sock=raw, compression=None, max_queue=1, ping_interval=None, proxy=None)
        greeting = decode(rude.recv(10), Greeting)  # type: ignore[arg-type]
        nonce = b"r" * NONCE
        _, out = session_seals(TOKEN, greeting.nonce, nonce)
        rude.send(nonce + out.close(encode(Hello(PROTOCOL, nonce, "rude"))))
        client = remote(server)
        client.reset(0, {})
        from launch.server.messages import Reset

        stop = threading.Event()

        def ask() -> None:
            try:
                rude.send(out.close(encode(Reset(1, 0, {}))))
                for number in range(2, 100_000):
                    if stop.is_set():
                        return
                    rude.send(out.close(encode(Observe(number, seen(), 0.0))))
            except (WebSocketException, OSError):
                return

        asking = threading.Thread(target=ask, daemon=True)
        asking.start()
        served = 0
        while server.counts["dropped"] == 0:
            assert client.infer(seen(), 0.0).actions[0, 0] == 3
            served += 1
        stop.set()
        assert client.infer(seen(), 0.0).actions[0, 0] == 3
        assert client.reconnects == 0
        client.close()
        raw.close()


def _large(observed_at: float) -> Any:
    from launch.robot.contract import Chunk

    return Chunk(np.zeros((200_000, 2), np.float32), 0.05, observed_at)


def test_hundreds_of_hostile_connections_while_a_client_is_served() -> None:
    rng = random.Random(1)
    settings = Settings(handshake_s=20.0, max_connections=64)
    with PolicyServer([Adder(), Adder()], ABOUT, TOKEN, settings=settings) as server:
        client = remote(server)
        client.reset(0, {})
        client.infer(seen(), 0.0)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        good = encode(Observe(1, seen(), 1.0))
        for number in range(300):
            _attack(server, rng, number, good)
            if number % 3 == 0:
                assert client.infer(seen(), 0.0).actions[0, 0] == 3
        assert client.reconnects == 0
        assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 50
        wait_for(lambda: len(server._connections) == 1)
        assert server.counts["refused"] > 150
        client.close()


def _attack(server: PolicyServer, rng: random.Random, number: int, good: bytes) -> None:
    """One enemy: without a websocket, without the token, or with it and a hostile message."""
    kind = number % 5
    if kind == 0:
        with socket.create_connection(("127.0.0.1", server._port)) as raw:
            raw.sendall(
                rng.choice([b"GET / HTTP/1.1\r\n\r\n", rng.randbytes(500), b"\0" * 5000, b"GET " + b"a" * 9000])
            )
        return
    try:
        with connect(server.url, proxy=None, ping_interval=None, close_timeout=0.2, compression=None) as enemy:
            greeting = decode(enemy.recv(20), Greeting)  # type: ignore[arg-type]
            nonce = rng.randbytes(NONCE)
            _, out = session_seals(TOKEN if kind > 2 else "not the token", greeting.nonce, nonce)
            if kind == 1:
                enemy.send(rng.choice([rng.randbytes(200), "text", b"", b"\0" * 100_000, hostile(rng, good)]))
            else:
                enemy.send(nonce + out.close(encode(Hello(PROTOCOL, nonce, "enemy"))))
            if kind > 2:
                enemy.recv(20)
                enemy.send(out.close(hostile(rng, good)) if kind == 3 else hostile(rng, good))
            reply = enemy.recv(20)
            if kind < 3:
                assert isinstance(decode(reply, Refusal), Refusal)  # type: ignore[arg-type]
    except (WebSocketException, OSError, BadMessage):
        return


class TabletopRecipe:
    """What `serve` needs, over an embedded flow policy that looks at the tabletop's state, pushed along a random direction."""

    digest, dt, action = "digest", 0.05, ("x", "y", "z", "rx", "ry", "rz", "gripper")
    limits: ClassVar[dict[str, tuple[float, float]]] = {"push": (0.0, 20.0)}
    strengths: ClassVar[dict[str, float]] = {"push": 5.0}

    def __init__(self) -> None:
        import policies
        from envs.tabletop.env import TabletopEnv
        from steer_agents.direction import Direction
        from steer_agents.interventions import Add
        from steer_agents.sites import Site, resolve, steerable
        from steer_agents.steerer import Steerer
        from steer_agents.strength import Strength

        self.policy = policies.load("flow-medium")
        site = Site("block_output", 1)
        place = resolve(steerable(self.policy), site)[0].key
        push = Direction.from_raw(
            {place: torch.randn(1, self.policy.config.width, generator=torch.Generator().manual_seed(0))}, site
        )
        self.steerer = Steerer(Add(push, strength=Strength(5.0), name="push"))
        env = TabletopEnv("PutBowlOnPlate", obs_type="state")
        self.first, self.info = env.reset(seed=0)
        env.close()
        self.info = {"task_description": self.info["task_description"]}
        self.observation = features_of(self.first)


def test_a_policy_of_ours_is_served_like_it_answers_here() -> None:
    recipe = TabletopRecipe()
    local = seat_of(recipe)

    def answers(inference: Any) -> list[np.ndarray]:
        inference.reset(3, recipe.info)
        found = []
        for at, steered, strength in ((0.0, True, None), (0.2, False, None), (0.4, True, 20.0), (0.4, True, 0.0)):
            if strength is not None:
                inference.set_strength("push", strength)
            found.append(inference.infer(recipe.first, at, steered).actions)
        with pytest.raises(BadInput, match="0 to 20"):
            inference.set_strength("push", 21.0)
        inference.close()
        return found

    here = answers(local)
    again = seat_of(recipe)
    with PolicyServer([again], about_of(recipe), TOKEN) as server:
        there = answers(remote(server))
    assert here[0].shape == (recipe.policy.chunk_size, 7)
    plain = PolicyInference(recipe.policy, None, 0.05)
    plain.reset(3, recipe.info)
    unsteered = [plain.infer(recipe.first, at).actions for at in (0.0, 0.2, 0.4, 0.4)]
    assert [bool(np.array_equal(a, b)) for a, b in zip(here, unsteered, strict=True)] == [False, True, False, True]
    np.testing.assert_array_equal(here, there)


def test_serve_asks_for_a_token_file_off_loopback_and_serves_until_stopped(tmp_path: Any) -> None:
    assert is_loopback("127.0.0.1")
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("0.0.0.0")
    assert not is_loopback("robot.example")
    with pytest.raises(BadInput, match="--token-file"):
        serve(TabletopRecipe, host="0.0.0.0")
    with pytest.raises(BadInput, match="--clients"):
        serve(TabletopRecipe, clients=0)
    said: list[str] = []
    stop = threading.Event()
    thread = threading.Thread(
        target=serve, args=(TabletopRecipe,), kwargs={"port": 0, "say": said.append, "stop": stop}, daemon=True
    )
    thread.start()
    wait_for(lambda: len(said) == 2)
    url, token = said[0].rpartition(" ")[2], said[1].removeprefix("token: ")
    client = RemoteInference(url, token, timeout=30.0)
    assert client.about == about_of(TabletopRecipe())
    client.reset(0, {"task_description": "put the bowl on the plate"})
    assert client.infer(TabletopRecipe().first, 0.0).actions.shape[1] == 7
    client.close()
    stop.set()
    thread.join()
    with pytest.raises(SteerError):
        RemoteInference(url, token)
