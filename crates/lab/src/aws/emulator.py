"""moto's server, made as strict as we need it.

It answers each request in a thread of its own, and its DynamoDB and SQS do not expect that: of two transactions on one
row both are written, and one that is refused takes back what others wrote meanwhile. In AWS neither happens, so here
each of these services answers one request at a time. Where moto is wrong in other ways, the function below says how.
"""

import collections
import copy
import sys
import threading
import time

from moto.dynamodb.exceptions import MockValidationException
from moto.dynamodb.models import DynamoDBBackend
from moto.dynamodb.models.dynamo_type import DynamoType
from moto.dynamodb.models.table import Table
from moto.dynamodb.responses import DynamoHandler
from moto.route53.exceptions import ResourceRecordAlreadyExists
from moto.route53.models import ChangeList, FakeZone, Route53Backend
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


def refuse_empty_ranges():
    """As DynamoDB does; moto finds nothing there."""
    query = DynamoHandler.query

    def checked(self):
        values = self.body.get("ExpressionAttributeValues") or {}
        between = "BETWEEN" in (self.body.get("KeyConditionExpression") or "")
        if between and values[":from"]["S"] > values[":to"]["S"]:
            raise MockValidationException("The BETWEEN operator requires upper bound to be greater than or equal")
        return query(self)

    DynamoHandler.query = checked


def copy_what_a_transaction_touches():
    """To be able to take a transaction back, moto copies the whole table, which takes ever longer."""
    transact = DynamoDBBackend.transact_write_items
    touched = []

    def copy_touched(self, memo):
        if not self.has_range_key:
            return copy.copy(self)
        copied = copy.copy(self)
        copied.items = collections.defaultdict(dict, {key: dict(rows) for key, rows in self.items.items()})
        for key in touched:
            partition, place = DynamoType(key["pk"]), DynamoType(key["sk"])
            row = self.items.get(partition, {}).get(place)
            if row is not None:
                copied.items[partition][place] = copy.deepcopy(row)
        return copied

    def transact_write_items(self, transact_items):
        operations = [next(iter(item.values())) for item in transact_items]
        touched[:] = [operation.get("Key") or operation.get("Item") for operation in operations]
        return transact(self, transact_items)

    Table.__deepcopy__ = copy_touched
    DynamoDBBackend.transact_write_items = transact_write_items


def change_one_record(lock):
    """A record set is one name, one type and one identifier. moto deletes all of a zone with the identifier, creates
    what is there, and refuses to create again what was deleted."""
    change = Route53Backend.change_resource_record_sets

    def identity(one):
        return (one["Name"].rstrip(".") + ".", one["Type"], one.get("SetIdentifier"))

    def change_together(self, zoneid, change_list):
        with lock:
            zone = self.get_hosted_zone(zoneid)
            of = lambda action: {
                identity(one["ResourceRecordSet"]) for one in change_list if one["Action"] == action
            }
            zone.leaving, coming = of("DELETE"), of("CREATE")
            for one in zone.rrsets:
                if (one.name, one.type, one.set_identifier) in coming:
                    raise ResourceRecordAlreadyExists(name=one.name, _type=one.type)
            made = [one for one in zone.rr_changes if identity(one["ResourceRecordSet"]) not in coming]
            zone.rr_changes = ChangeList(made)
            return change(self, zoneid, change_list)

    def delete(self, set_identifier):
        def leaves(one):
            key = (one.name, one.type, one.set_identifier)
            return one.set_identifier == set_identifier and key in self.leaving

        self.rrsets = [one for one in self.rrsets if not leaves(one)]

    Route53Backend.change_resource_record_sets = change_together
    FakeZone.delete_rrset_by_id = delete


refuse_empty_ranges()
copy_what_a_transaction_touches()
change_one_record(threading.RLock())
one_at_a_time(DynamoHandler, ["call_action"], threading.RLock())
queues = threading.RLock()
receive_in_turn(queues)
changing = ["send_message", "send_message_batch", "delete_message", "delete_message_batch"]
one_at_a_time(SQSBackend, changing + ["change_message_visibility"], queues)
main(sys.argv[1:])
