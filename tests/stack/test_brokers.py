"""A broker that listens on an IPv6 address only: whoever talks to Kafka finds it by `[::1]:port`."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from kafka.admin import NewTopic
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed
from test_metrics import scrape
from world import World, carts

from generators.events import Event
from generators.producer import produce
from lib import brokers
from lib.ledger.metrics import Exporter
from lib.settings import TOPICS, Settings
from lib.stack import lifecycle as parts_of_stack
from lib.stack import programs, scratch


@pytest.fixture
def elsewhere(stack: Settings, tmp_path: Path) -> Iterator[str]:
    """The address of a broker of the test's own."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"this machine has no [::1] ({error})")
    ports = scratch.environment(tmp_path)
    port, controller = (ports[f"GM_{name}_PORT"] for name in ("KAFKA", "KAFKA_CONTROLLER"))
    config = stack.model_copy(
        update={"data_dir": tmp_path, "kafka_port": int(port), "kafka_controller_port": int(controller)}
    )
    programs.prepare_kafka(config)
    properties = tmp_path / "kafka" / "server.properties"
    text = properties.read_text()
    for host in ("127.0.0.1", "localhost"):
        text = text.replace(f"PLAINTEXT://{host}:{port}", f"PLAINTEXT://[::1]:{port}")
    properties.write_text(text)
    with (tmp_path / "kafka.log").open("w") as log:
        process = subprocess.Popen(programs.kafka_command(config), stdout=log, stderr=log)
    try:
        address = f"[::1]:{port}"
        waiting = Retrying(stop=stop_after_delay(60), wait=wait_fixed(0.1), retry=retry_if_exception_type(OSError))
        waiting(brokers.reach, address, seconds=5)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def test_everybody_finds_a_broker_by_its_ipv6_address(
    world: World, elsewhere: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.config, "kafka_bootstrap", elsewhere)
    with world.admin() as admin:
        admin.create_topics([NewTopic(world.topic, num_partitions=3, replication_factor=1)])
    topics = dict.fromkeys(TOPICS, world.topic)
    events = [Event("cart_events", int(time.time() * 1000), value) for value in carts(0, 30)]
    assert produce(events, topics, bootstrap=elsewhere).acknowledged == {world.topic: 30}
    world.ingest()
    world.await_ids(carts(0, 30))
    world.ledger()
    # who looks whether Kafka is up finds it behind a broker that is down
    with closing(socket.create_server(("127.0.0.1", 0))) as nobody:
        down = f"127.0.0.1:{nobody.getsockname()[1]}"
    monkeypatch.setattr(world.config, "kafka_bootstrap", f"{down},{elsewhere}")
    parts_of_stack.ensure_topics(world.config)
    with closing(Exporter(world.config)) as exporter:
        assert scrape(exporter)["globalmart_up", "kafka"] == 1
