"""An old worker: it appends to the shard logs of Streams Redis itself, as workers did before
the bus. Not one to copy: it shows that they need no change.

Its promise is weaker than that of the others. XADD has no idempotency key, so a scan that
is played twice is seen twice. Therefore RabbitMQ forgets each scan as it hands it out: at most
once. A worker that is killed, or loses Redis, leaves a job without an end.
"""

import hashlib
import json
import logging
import os
import signal
import time

import pika
import pika.exceptions
import redis

import queues
import scan
import settings

log = logging.getLogger("legacy")

SHARDS = 4
MAXLEN = 10_000
# How long it waits before it looks for a scan again.
IDLE = 0.1
STAGE_SEQ = {"queued": 0, "vision": 10, "rule": 20, "answer": 30, "reward": 40, "done": 50}


def stream_of(job_id):
    """Where the events of a job go; SHARD_COUNT is 4."""
    digest = hashlib.md5(job_id.encode()).digest()
    return f"scan:events:{int.from_bytes(digest[:8], 'big') % SHARDS}"


def publish(streams, job_id, stage, status, progress, result=None):
    """Append one event, in the fields of the old workers."""
    seq = STAGE_SEQ[stage] + (1 if status == "completed" else 0)
    streams.xadd(stream_of(job_id), {
        "job_id": job_id,
        "stage": stage,
        "status": status,
        "seq": str(seq),
        "ts": str(time.time()),
        "progress": str(progress),
        "result": json.dumps(result, ensure_ascii=False) if result is not None else "",
        "trace_id": "",
        "span_id": "",
        "traceparent": "",
    }, maxlen=MAXLEN, approximate=True)


def play(streams, job_id, picture, sleep):
    pace = settings.pace() * 10
    whole = {}
    work = {
        "vision": lambda: scan.look(picture),
        "rule": lambda: scan.rule_for(whole["vision"]),
        "answer": lambda: scan.answer_for(whole["vision"], whole["rule"]),
        "reward": lambda: scan.reward_for(job_id),
    }
    for stage, do in work.items():
        begin, end = scan.PROGRESS[stage]
        publish(streams, job_id, stage, "started", begin)
        sleep(pace)
        try:
            whole[stage] = do()
        except scan.BadPicture as e:
            publish(streams, job_id, stage, "failed", begin, {"error": str(e)})
            return
        publish(streams, job_id, stage, "completed", end, whole[stage])
    publish(streams, job_id, "done", "completed", 100, whole)


class Worker:
    def __init__(self, streams):
        self.streams = streams
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
        log.info("taking scans from %s", queues.LEGACY)
        while not self.stopping:
            method, properties, body = channel.basic_get(queues.LEGACY, auto_ack=True)
            if method is None:
                connection.sleep(IDLE)
            else:
                play(self.streams, properties.message_id, body, settings.sleeper(connection))

    def stop(self, *_):
        self.stopping = True


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("pika").setLevel(logging.ERROR)
    worker = Worker(redis.Redis.from_url(os.environ["REDIS_STREAMS_URL"]))
    for s in (signal.SIGTERM, signal.SIGINT):
        signal.signal(s, worker.stop)
    worker.run()


if __name__ == "__main__":
    main()
