"""moto's server, made as strict as we need it.

It answers each request in a thread of its own, and its DynamoDB and SQS do not expect that: of two transactions on one
row both are written, and one that is refused takes back what others wrote meanwhile. In AWS neither happens, so here
each of these services answers one request at a time.
"""

import sys
import threading
import time

from moto.dynamodb.responses import DynamoHandler
from moto.server import main
from moto.sqs.models import SQSBackend

LOOK_AGAIN_SECS = 0.05


def one_at_a_time(owner, names, lock):
    def guarded(original):
        def call(*args, **kwargs):
            with lock:
                return original(*args, **kwargs)

        return call

    for name in names:
        setattr(owner, name, guarded(getattr(owner, name)))


def receive_in_turn(lock):
    """A long poll holds nobody else up."""
    look = SQSBackend.receive_message

    def receive(self, queue_name, count, wait_seconds_timeout, visibility_timeout, names=None):
        end = time.monotonic() + (wait_seconds_timeout or 0)
        while True:
            with lock:
                found = look(self, queue_name, count, 0, visibility_timeout, names)
            if found or time.monotonic() >= end:
                return found
            time.sleep(LOOK_AGAIN_SECS)

    SQSBackend.receive_message = receive


one_at_a_time(DynamoHandler, ["call_action"], threading.RLock())
queues = threading.RLock()
receive_in_turn(queues)
changing = ["send_message", "send_message_batch", "delete_message", "delete_message_batch"]
one_at_a_time(SQSBackend, changing + ["change_message_visibility"], queues)
main(sys.argv[1:])
