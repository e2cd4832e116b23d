"""The queues, declared as queue/queue.go does it: both must say the same."""

import os

import pika

JOBS = "scan.jobs"
LEGACY = "scan.legacy"
DEAD = "scan.dead"
MAX_WAIT_MS = 3_600_000


def connect():
    parameters = pika.URLParameters(os.environ["AMQP_URL"])
    parameters.heartbeat = 10
    parameters.socket_timeout = 10
    return pika.BlockingConnection(parameters)


def declare(channel):
    channel.queue_declare(DEAD, durable=True, arguments={"x-queue-type": "quorum"})
    for name in (JOBS, LEGACY):
        channel.queue_declare(name, durable=True, arguments={
            "x-queue-type": "quorum",
            "x-message-ttl": MAX_WAIT_MS,
            "x-overflow": "reject-publish",
            "x-delivery-limit": int(os.environ.get("QUEUE_TRIES", "10")),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": DEAD,
            "x-dead-letter-strategy": "at-least-once",
        })
