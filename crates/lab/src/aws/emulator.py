"""moto's server, made as strict as we need it.

It answers each request in a thread of its own, and its DynamoDB and SQS do not expect that: of two transactions on one
row both are written, and one that is refused takes back what others wrote meanwhile. In AWS neither happens, so here
each of these services answers one request at a time.
"""

import sys
import threading
import time

from moto.dynamodb.responses import DynamoHandler
from moto.route53.models import FakeZone, Route53Backend
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


def delete_one_record(lock):
    """A record set is one name, one type and one identifier; moto deletes all of a zone with the identifier."""
    change = Route53Backend.change_resource_record_sets

    def change_together(self, zoneid, change_list):
        sets = [one["ResourceRecordSet"] for one in change_list if one["Action"] == "DELETE"]
        with lock:
            self.get_hosted_zone(zoneid).leaving = {
                (one["Name"].rstrip(".") + ".", one["Type"], one.get("SetIdentifier")) for one in sets
            }
            return change(self, zoneid, change_list)

    def delete(self, set_identifier):
        def leaves(one):
            key = (one.name, one.type, one.set_identifier)
            return one.set_identifier == set_identifier and key in self.leaving

        self.rrsets = [one for one in self.rrsets if not leaves(one)]

    Route53Backend.change_resource_record_sets = change_together
    FakeZone.delete_rrset_by_id = delete


delete_one_record(threading.RLock())
one_at_a_time(DynamoHandler, ["call_action"], threading.RLock())
queues = threading.RLock()
receive_in_turn(queues)
changing = ["send_message", "send_message_batch", "delete_message", "delete_message_batch"]
one_at_a_time(SQSBackend, changing + ["change_message_visibility"], queues)
main(sys.argv[1:])
