//! Whose hosts are: a row for each host ever claimed, and one for each that an instance holds.

use std::collections::HashMap;

use aws::{Action, Error, Item, Key, Page, Table};
use model::{Host, InstanceId};
use time::OffsetDateTime;

use super::{
    TRIES,
    rows::{HOSTS, OWNERS, bounded, count, held_by, host_key, millis, now_ms},
};
use crate::{AUDIT_KEPT, Claim, Claimant, Claimed, Refusal, claimed};

/// Hosts that are freed in one transaction: two rows each, and their owner's.
const FREED_TOGETHER: usize = 40;

/// A host that can be had, and what its row was.
pub(super) struct News<'a> {
    host: &'a Host,
    freed_at_ms: Option<u64>,
}

/// The end of a claim, and what has to be written for it.
pub(super) async fn judge<'a>(
    table: &Table,
    hosts: &'a [Host],
    claimant: &Claimant<'_>,
) -> Result<(Claim, Vec<News<'a>>), Error> {
    let owner_key = Key::new(OWNERS, claimant.owner.to_string());
    let keys: Vec<_> = hosts.iter().map(|host| host_key(host.as_str())).chain([owner_key.clone()]).collect();
    let rows = table.get_all(&keys).await?;
    let held = rows.get(&owner_key).map(|row| row.get_number("hosts")).transpose()?.flatten().unwrap_or(0);
    let mut news = Vec::new();
    for (at, host) in hosts.iter().enumerate() {
        let refused = |why| Ok((Claim::Refused { at, why }, Vec::new()));
        let freed_at_ms = match found(&rows, host, claimant)? {
            Found::Own => continue,
            Found::Refused(why) => return refused(why),
            Found::Free(freed_at_ms) => freed_at_ms,
        };
        let after = u64::try_from(news.len()).unwrap_or(u64::MAX).saturating_add(1).saturating_add(held);
        if claimant.most.is_some_and(|most| after > u64::from(most)) {
            return refused(Refusal::OverQuota);
        }
        news.push(News { host, freed_at_ms });
    }
    Ok((Claim::Held, news))
}

/// Whose a host is.
enum Found {
    Own,
    /// Nobody's; and since when.
    Free(Option<u64>),
    Refused(Refusal),
}

fn found(rows: &HashMap<Key, Item>, host: &Host, claimant: &Claimant<'_>) -> Result<Found, Error> {
    let Some(row) = rows.get(&host_key(host.as_str())) else { return Ok(Found::Free(None)) };
    let holder = row.get_text("instance")?;
    let Some(freed) = row.get_number::<u64>("freed_at_ms")? else {
        if holder == claimant.instance.as_str() {
            return Ok(Found::Own);
        }
        let holder =
            InstanceId::try_from(holder.to_owned()).map_err(|error| Error::told(error.to_string()))?;
        return Ok(Found::Refused(Refusal::Taken(holder)));
    };
    let until = freed.saturating_add(millis(claimant.cool_down));
    if row.get_text("owner")? == claimant.owner.to_string() || until <= now_ms() {
        return Ok(Found::Free(Some(freed)));
    }
    let until = OffsetDateTime::from_unix_timestamp_nanos(i128::from(until) * 1_000_000);
    Ok(Found::Refused(Refusal::Cooling(until.map_err(|error| Error::told(error.to_string()))?)))
}

pub(super) async fn claim(table: &Table, hosts: &[Host], claimant: &Claimant<'_>) -> Result<Claim, Error> {
    let owner = claimant.owner.to_string();
    for _ in 0..TRIES {
        let (end, news) = judge(table, hosts, claimant).await?;
        if news.is_empty() {
            return Ok(end);
        }
        let more = u64::try_from(news.len()).unwrap_or(u64::MAX);
        let by = i64::try_from(more).unwrap_or(i64::MAX);
        let mut actions = vec![bounded(count(&owner, "hosts", by), "hosts", more, claimant.most)];
        for News { host, freed_at_ms } in news {
            let row = Item::at(&host_key(host.as_str()));
            let put =
                Action::put(row.text("instance", claimant.instance.as_str()).text("owner", owner.as_str()));
            actions.push(match freed_at_ms {
                None => put.only_new(),
                Some(freed) => put.only_if("#freed_at_ms = :freed").with_number("freed", freed),
            });
            let held = Key::new(held_by(claimant.instance), host.as_str());
            actions.push(Action::put(Item::at(&held).text("owner", owner.as_str())));
        }
        // Refused: somebody was faster at one of them, so it is judged anew.
        if table.write(actions).await?.is_ok() {
            return Ok(Claim::Held);
        }
    }
    Err(Error::told(format!("others were faster {TRIES} times in a row")))
}

pub(super) async fn all(table: &Table) -> Result<Vec<Claimed>, Error> {
    let rows = table.read(Page::all(HOSTS)).await?;
    let claim = |row: &Item| {
        let text = |name| row.get_text(name).map(str::to_owned);
        let is_free = row.get_number::<u64>("freed_at_ms")?.is_some();
        claimed(text("sk")?, text("instance")?, row.get_text("owner")?, is_free).map_err(Error::told)
    };
    rows.iter().map(claim).collect()
}

pub(super) async fn held(table: &Table, id: &InstanceId) -> Result<Vec<Host>, Error> {
    let rows = table.read(Page::all(&held_by(id))).await?;
    let host = |row: &Item| {
        Host::try_from(row.get_text("sk")?.to_owned()).map_err(|error| Error::told(error.to_string()))
    };
    rows.iter().map(host).collect()
}

pub(super) async fn release(table: &Table, id: &InstanceId, keep: &[Host]) -> Result<(), Error> {
    for _ in 0..TRIES {
        let held = table.read(Page::all(&held_by(id))).await?;
        let mut by_owner: HashMap<String, Vec<String>> = HashMap::new();
        for row in held {
            let host = row.get_text("sk")?;
            if !keep.iter().any(|kept| kept.as_str() == host) {
                by_owner.entry(row.get_text("owner")?.to_owned()).or_default().push(host.to_owned());
            }
        }
        let mut all_freed = true;
        for (owner, hosts) in by_owner {
            for hosts in hosts.chunks(FREED_TOGETHER) {
                all_freed &= table.write(freeing(id, &owner, hosts)).await?.is_ok();
            }
        }
        // Refused: another worker frees them just now.
        if all_freed {
            return Ok(());
        }
    }
    Err(Error::told(format!("others were faster {TRIES} times in a row")))
}

fn freeing(id: &InstanceId, owner: &str, hosts: &[String]) -> Vec<Action> {
    let fewer = i64::try_from(hosts.len()).map_or(i64::MIN, |hosts| -hosts);
    let mut actions = vec![count(owner, "hosts", fewer)];
    let now = now_ms();
    for host in hosts {
        let free = Action::update(host_key(host), "SET #freed_at_ms = :now, #expires = :expires");
        let free = free.only_if("#instance = :instance AND attribute_not_exists(#freed_at_ms)");
        // Longer than any host is kept for who had it.
        let expires = now.saturating_add(millis(AUDIT_KEPT)) / 1_000;
        actions.push(
            free.with_number("now", now).with_number("expires", expires).with_text("instance", id.as_str()),
        );
        actions.push(Action::delete(Key::new(held_by(id), host.as_str())).only_if("attribute_exists(pk)"));
    }
    actions
}
