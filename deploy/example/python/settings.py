"""Settings that both workers have."""

import os
import re
import time

import pika.exceptions

UNITS = {"ms": 0.001, "s": 1, "m": 60}


def pace():
    """PACE in seconds; written as for the worker in Go, "40ms"."""
    text = os.environ.get("PACE", "40ms")
    m = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m)", text)
    if not m:
        raise SystemExit(f"PACE is {text!r}, want a number and ms, s or m")
    return float(m[1]) * UNITS[m[2]]


def sleeper(connection):
    """A sleep that keeps the connection's heartbeats, while there is a connection."""
    def sleep(seconds):
        try:
            connection.sleep(seconds)
        except pika.exceptions.AMQPError:
            time.sleep(seconds)
    return sleep
