"""A Ray cluster of several nodes in one machine, on loopback, in a process of its own: `python ray_nodes.py NODES CPUS`.

Prints its address, and ends when its input ends. Ray gives the agents of a node fifteen seconds to come up and then aborts the node; on a
busy machine that is not enough, so that the ports which the node waits for are written before it looks for them.
"""

from __future__ import annotations

import os
import socket
import sys

os.environ |= {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # "this machine" is loopback
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_health_check_initial_delay_ms": "120000",
    "RAY_health_check_timeout_ms": "120000",
}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def patient() -> None:
    """Have the port files of a node's agents written before the node is started."""
    import inspect

    from ray import _raylet
    from ray._private import services

    start = services.start_raylet
    unused = (
        _raylet.METRICS_AGENT_PORT_NAME,
        _raylet.METRICS_EXPORT_PORT_NAME,
        _raylet.DASHBOARD_AGENT_LISTEN_PORT_NAME,
    )

    def start_raylet(*args, **kwargs):  # type: ignore[no-untyped-def]
        given = inspect.signature(start).bind(*args, **kwargs).arguments
        given["runtime_env_agent_port"] = free_port()
        ports = {**dict.fromkeys(unused, -1), _raylet.RUNTIME_ENV_AGENT_PORT_NAME: given["runtime_env_agent_port"]}
        for name, port in ports.items():
            _raylet.persist_port(given["session_dir"], given["node_id"], name, port)
        return start(**given)

    services.start_raylet = start_raylet


def main(nodes: int, cpus: int) -> None:
    from ray.cluster_utils import Cluster

    patient()
    own = {
        "num_cpus": cpus,
        "object_store_memory": 100 * 2**20,
        "node_ip_address": "127.0.0.1",
        "include_log_monitor": False,
    }
    cluster = Cluster(initialize_head=True, head_node_args={**own, "include_dashboard": False, "no_monitor": True})
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**own)
        print(cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
