//! Where each thing is in the table.

use std::time::Duration;

use aws::{Action, Error, Item, Key};
use aws_lc_rs::digest::{SHA256, digest};
use model::InstanceId;
use time::OffsetDateTime;

/// Partitions that instances are spread over: one takes 1,000 writes of 1 KB a second.
pub(super) const SHARDS: u64 = 16;
/// Jobs that are not in the queue yet, by their ids.
pub(super) const OUTBOX: &str = "outbox";
/// What operators decided, by group.
pub(super) const CONTROLS: &str = "controls";
/// What the last look around found.
pub(super) const DRIFT: &str = "drift";
/// Whose each task is.
pub(super) const TURNS: &str = "turns";
/// What was withdrawn before its time, by name; also who counts it.
pub(super) const REVOCATIONS: &str = "revocations";
/// How much was served, by group.
pub(super) const SIZES: &str = "sizes";
/// Who has how many instances and hosts, by owner.
pub(super) const OWNERS: &str = "owners";
/// Whose each host is, or was.
pub(super) const HOSTS: &str = "hosts";
/// One transaction has at most a hundred.
pub(super) const MOST_ACTIONS: usize = 100;

pub(super) fn instances_of(shard: u64) -> String {
    format!("instances#{shard}")
}

pub(super) fn instance_key(id: &InstanceId) -> Key {
    let first = digest(&SHA256, id.as_str().as_bytes()).as_ref().first().copied().unwrap_or_default();
    Key::new(instances_of(u64::from(first) % SHARDS), id.as_str())
}

pub(super) fn host_key(host: &str) -> Key {
    Key::new(HOSTS, host)
}

/// The hosts of one instance.
pub(super) fn held_by(id: &InstanceId) -> String {
    format!("held#{id}")
}

pub(super) fn reports_of(group: &str) -> String {
    format!("reports#{group}")
}

/// All partitions in which an entry of the audit log stands, from the one that says least to the one that says most.
pub(super) fn audit_partitions(instance: Option<&InstanceId>, platform: Option<&str>) -> Vec<String> {
    let mut partitions = vec!["audit".to_owned()];
    partitions.extend(platform.map(|platform| format!("audit#platform#{platform}")));
    partitions.extend(instance.map(|id| format!("audit#instance#{id}")));
    partitions
}

/// A number that sorts as a text: as wide as the largest.
pub(super) fn place(position: u64) -> String {
    format!("{position:020}")
}

pub(super) fn now_ms() -> u64 {
    u64::try_from(OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000).unwrap_or(0)
}

pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// DynamoDB deletes the row some time after this.
pub(super) fn expiring(row: Item, after: Duration) -> Item {
    row.number("expires", now_ms().saturating_add(millis(after)) / 1_000)
}

/// Counts what an owner has.
pub(super) fn count(owner: &str, what: &str, by: i64) -> Action {
    Action::update(Key::new(OWNERS, owner), &format!("ADD #{what} :{what}_more"))
        .with_number(&format!("{what}_more"), by)
}

/// Only if the owner then has at most so many.
pub(super) fn bounded(count: Action, what: &str, more: u64, most: Option<u32>) -> Action {
    let Some(most) = most else { return count };
    let Some(room) = u64::from(most).checked_sub(more) else {
        // Not even these alone.
        return count.only_if("attribute_exists(pk) AND attribute_not_exists(pk)");
    };
    count
        .only_if(format!("attribute_not_exists(#{what}) OR #{what} <= :{what}_room"))
        .with_number(&format!("{what}_room"), room)
}

/// The owner of an instance, and whether it is there.
pub(super) fn whose(row: &Item) -> Result<(String, bool), Error> {
    Ok((row.get_text("owner")?.to_owned(), row.get_number::<u8>("present")? == Some(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_stays_where_earlier_releases_put_it() {
        let shard = |id: &str| instance_key(&id.parse().unwrap()).pk;
        assert_eq!(
            ["a", "i-1", "7d6c4a3e-6f0e-4b57-9c3b-7a4f2d1c9e01"].map(shard),
            ["instances#10", "instances#1", "instances#2"]
        );
    }

    #[test]
    fn places_sort_as_numbers() {
        assert!(place(9) < place(10) && place(10) < place(u64::MAX));
    }
}
