"""A worker in Python, beside those in Go on the same queue, and with the same promises:
see worker/worker.go.

It needs Debian's python3-grpcio, python3-pika and python3-pil, and in PYTHONPATH what
protoc makes of proto/eventbus/v1/eventbus.proto. Settings are those of `example worker`.
It takes one scan at a time: start as many as are wanted.
"""

import json
import logging
import os
import random
import signal
import time

import grpc
import pika
import pika.exceptions
from google.protobuf import json_format

from eventbus.v1 import eventbus_pb2 as pb
from eventbus.v1 import eventbus_pb2_grpc as pb_grpc

import queues
import scan
import settings

log = logging.getLogger("worker")

CALL_TIMEOUT = 10
# The scan goes back to its queue afterwards, which keeps it for an hour.
RETRY_FOR = 60
RETRY_CODES = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED)
# All routers of a name; one that vanished is noticed within 15 s, one that is back within 2.
CHANNEL = (
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)
# How long a stage works, in paces.
STAGE_PACES = 10
RETRY_PAUSE = 0.2


class Over(Exception):
    """The job has had its final event."""


class FailedForNow(Exception):
    """The next attempt may do it."""


class Job:
    """One scan under way."""

    def __init__(self, bus, sleep, job_id, attempt, traceparent):
        self.bus, self.sleep = bus, sleep
        self.id, self.attempt, self.traceparent = job_id, attempt, traceparent
        self.pace = settings.pace()

    def play(self, picture):
        """Publish the scan's events, each under the same key each time it is played."""
        self.publish("queued", "started", progress=0)
        self.publish("queued", "completed", progress=5)
        vision = self.stage("vision", lambda: scan.look(picture))
        rule = self.stage("rule", lambda: scan.rule_for(vision))
        answer = self.stage("answer", lambda: self.stream(scan.answer_for(vision, rule)))
        reward = self.stage("reward", lambda: scan.reward_for(self.id))
        whole = {"vision": vision, "rule": rule, "answer": answer, "reward": reward}
        self.publish("done", "completed", progress=100, result=whole, final=True)

    def stage(self, name, work):
        """Work through a stage. Returns the result that the bus has, which may be another worker's."""
        begin, end = scan.PROGRESS[name]
        self.publish(name, "started", progress=begin)
        if self.fails(name):
            raise FailedForNow(f"{name} failed at attempt {self.attempt}: a simulated failure")
        result = work()
        if name != "answer":
            self.sleep(STAGE_PACES * self.pace)
        if self.publish(name, "completed", progress=end, result=result):
            return self.recorded(name)
        return result

    def stream(self, answer):
        for i, token in enumerate(scan.tokens(answer)):
            self.publish("answer", "streaming", step=f"token/{i}", content=token)
            self.sleep(self.pace)
        return answer

    def publish(self, stage, status, step=None, result=None, **fields):
        """Return when the bus has acknowledged the event; whether it had it already."""
        event = pb.Event(domain="scan", job_id=self.id, stage=stage, status=status, traceparent=self.traceparent, **fields)
        event.attributes["worker"] = os.environ.get("WORKER_NAME", "python")
        event.attributes["attempt"] = str(self.attempt)
        if result is not None:
            json_format.ParseDict(result, event.result)
        request = pb.PublishRequest(event=event, idempotency_key=f"{stage}/{step or status}")
        return self.retry(lambda: self.bus.Publish(request, timeout=CALL_TIMEOUT)).duplicate

    def recorded(self, stage):
        """What the bus has as the result of a stage."""
        def read():
            stream = self.bus.Subscribe(pb.SubscribeRequest(domain="scan", job_id=self.id), timeout=CALL_TIMEOUT)
            try:
                for message in stream:
                    for event in message.events:
                        if event.stage == stage and event.status == "completed":
                            return whole_numbers(json_format.MessageToDict(event.result))
            finally:
                stream.cancel()
            raise FailedForNow(f"{stage} of {self.id} is not in the log")
        return self.retry(read)

    def fail(self, reason):
        try:
            self.publish("failed", "failed", message=reason, final=True)
        except Over:
            pass

    def retry(self, call):
        """Repeat what may go better next time."""
        deadline, pause = time.monotonic() + RETRY_FOR, 0.1
        while True:
            try:
                return call()
            except grpc.RpcError as e:
                if e.code() == grpc.StatusCode.FAILED_PRECONDITION:
                    raise Over from e
                if e.code() not in RETRY_CODES or time.monotonic() > deadline:
                    raise FailedForNow(f"{e.code()}: {e.details()}") from e
            self.sleep(pause * random.uniform(0.5, 1))
            pause = min(2 * pause, 5)

    def fails(self, stage):
        rate = float(os.environ.get("FAIL_RATE", "0"))
        return random.Random(f"{os.environ.get('FAIL_SEED', '1')}/{self.id}/{stage}/{self.attempt}").random() < rate


def whole_numbers(value):
    """JSON's numbers are doubles: 640.0 is 640."""
    return json.loads(json.dumps(value), parse_float=lambda s: int(float(s)) if float(s).is_integer() else float(s))


class Worker:
    def __init__(self, bus):
        self.bus = bus
        self.stopping = False

    def run(self):
        while not self.stopping:
            try:
                with queues.connect() as connection:
                    self.consume(connection)
            except pika.exceptions.AMQPError as e:
                log.warning("RabbitMQ is lost, connecting again: %r", e)
                time.sleep(0.5)

    def consume(self, connection):
        channel = connection.channel()
        queues.declare(channel)
        channel.basic_qos(prefetch_count=1)
        log.info("taking scans from %s", queues.JOBS)
        for method, properties, body in channel.consume(queues.JOBS, inactivity_timeout=0.5):
            if method is not None and not self.stopping:
                self.handle(connection, channel, method, properties, body)
            if self.stopping:
                return  # what is in hand unanswered goes to others

    def handle(self, connection, channel, method, properties, body):
        headers = properties.headers or {}
        attempt = int(headers.get("x-delivery-count", 0)) + 1
        # The connection's own sleep keeps its heartbeats.
        job = Job(self.bus, connection.sleep, properties.message_id, attempt, headers.get("traceparent", ""))
        try:
            job.play(body)
        except Over:
            pass  # by another worker, or as a dead letter
        except scan.BadPicture as e:
            job.fail(str(e))
        except FailedForNow as e:
            log.warning("job %s failed for now, attempt %d: %s", job.id, attempt, e)
            connection.sleep(attempt * RETRY_PAUSE)
            channel.basic_nack(method.delivery_tag, requeue=True)
            return
        # The bus has the final event: now, and not before.
        channel.basic_ack(method.delivery_tag)

    def stop(self, *_):
        self.stopping = True


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("pika").setLevel(logging.ERROR)
    with grpc.insecure_channel(os.environ["ROUTER_ADDR"], options=CHANNEL) as channel:
        worker = Worker(pb_grpc.EventBusServiceStub(channel))
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, worker.stop)
        worker.run()


if __name__ == "__main__":
    main()
