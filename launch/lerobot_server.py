"""LeRobot's own asynchronous inference server, with steered policies in it.

LeRobot's server imports no plug-ins and knows a fixed list of policy types; here the plug-in is imported and its type appended, then
the stock server runs. It unpickles what clients send: whoever can open a connection can run any code as you. So it listens on
loopback only, and a robot elsewhere reaches it through an SSH tunnel (`ssh -L 8080:127.0.0.1:8080 gpu-machine`), or
uses `steer-agents serve`, which reads no pickle.
"""

from __future__ import annotations

import contextlib
from concurrent import futures
from pathlib import Path
from typing import Any

from launch.loopback import is_loopback
from policies.errors import BadInput, MissingExtra

TYPE = "steered"


def start(
    host: str = "127.0.0.1", port: int = 8080, fps: int = 30, logs: str | Path = "runs/lerobot-server"
) -> tuple[Any, int]:
    """Start the server in threads of this process.

    Args:
        host: a loopback address.
        port: 0 takes a free one.
        fps: of the clients.
        logs: folder in which LeRobot writes its logs.
    Returns:
        grpc's server (`stop`, `wait_for_termination`) and the port.
    Raises:
        BadInput: the host is not loopback, or the port is taken.
        MissingExtra: grpc or the plug-in is not installed.
    """
    if not is_loopback(host):
        raise BadInput(
            f"lerobot-server: {host!r} is not this machine's loopback. LeRobot's server unpickles what clients send, so whoever reaches "
            "it can run any code as you. Keep --host 127.0.0.1 and reach it through `ssh -L 8080:127.0.0.1:8080 THIS_MACHINE`, or use "
            "`steer-agents serve`."
        )
    Path(logs).mkdir(parents=True, exist_ok=True)
    try:
        import grpc
        import lerobot_policy_steered  # noqa: F401 - registers the type

        with contextlib.chdir(logs):  # LeRobot opens logs/ in the working directory when it is imported
            from lerobot.async_inference.configs import PolicyServerConfig
            from lerobot.async_inference.constants import SUPPORTED_POLICIES
            from lerobot.async_inference.policy_server import PolicyServer
            from lerobot.transport import services_pb2_grpc
    except ImportError as error:
        raise MissingExtra(
            f"lerobot-server needs LeRobot with grpc and the plug-in ({error}); run `make setup`, or pip install 'lerobot[async]' "
            "./launch/lerobot_policy_steered."
        ) from error
    if TYPE not in SUPPORTED_POLICIES:
        SUPPORTED_POLICIES.append(TYPE)
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    servicer = PolicyServer(PolicyServerConfig(host=host, port=port or 8080, fps=fps))
    services_pb2_grpc.add_AsyncInferenceServicer_to_server(servicer, server)
    try:
        bound = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError as error:
        raise BadInput(f"lerobot-server: port {port} of {host} cannot be had ({error}); give another --port.") from None
    server.start()
    return server, bound
