//! Revocations in the table: a row each, and one that counts them. Every write is upon the version that was read, so
//! that the count is right and nobody widens what another one writes to.

use std::collections::BTreeMap;

use aws::{Action, Item, Key, Page};
use model::{
    audit::{Entry, Event},
    revocation::{
        Revocation,
        table::{self, Change, Table},
    },
};

use super::{
    DynamoStore, TRIES, audit_rows, busy, failed, json,
    log::Log,
    parsed,
    rows::{MOST_ACTIONS, REVOCATIONS, now_ms},
};
use crate::{Noted, Revoke, StoreError};

/// Of one transaction, beside the counting row, the place in the log and three entries of the audit log.
const MOST_TOGETHER: usize = MOST_ACTIONS - 5;
/// In each transaction: the counting row, and the place in the log.
const LOG_AT: usize = 1;

/// How many there are, and which version.
#[derive(Debug, Clone, Copy)]
struct Head {
    version: u64,
    count: u64,
}

/// One change of the table, or a part of one that does not fit into a transaction.
struct Part<'a> {
    put: &'a [Revocation],
    gone: &'a [String],
    /// How many more there are then.
    more: i64,
}

fn head_key() -> Key {
    Key::new("counters", REVOCATIONS)
}

fn key(name: &str) -> Key {
    Key::new(REVOCATIONS, name)
}

pub(super) fn now_secs() -> u64 {
    now_ms() / 1_000
}

impl DynamoStore {
    async fn head(&self) -> Result<Head, StoreError> {
        let reading = |error| failed("reading revocations", error);
        let Some(row) = self.table.get(&head_key()).await.map_err(reading)? else {
            return Ok(Head { version: 0, count: 0 });
        };
        let number = |name| row.get_number(name).map(Option::unwrap_or_default).map_err(reading);
        Ok(Head { version: number("version")?, count: number("count")? })
    }

    async fn read_revocations(&self) -> Result<Vec<Revocation>, StoreError> {
        let rows = self.table.read(Page::all(REVOCATIONS)).await;
        rows.map_err(|error| failed("reading revocations", error))?.iter().map(parsed).collect()
    }

    pub(super) async fn read_revocation(&self, name: &str) -> Result<Option<Revocation>, StoreError> {
        let row = self.table.get(&key(name)).await.map_err(|error| failed("reading revocations", error))?;
        row.as_ref().map(parsed).transpose()
    }

    /// All of them, if their version is not the known one.
    pub(super) async fn revocations_since(
        &self,
        known: Option<u64>,
    ) -> Result<Option<(Vec<Revocation>, u64)>, StoreError> {
        // Read first: what is written in between is read twice, and not never.
        let Head { version, .. } = self.head().await?;
        if known == Some(version) {
            return Ok(None);
        }
        Ok(Some((self.read_revocations().await?, version)))
    }

    /// Writes an entry, or what a table that is full of others becomes by it.
    pub(super) async fn put_revocation(&self, new: &Revocation, noted: Noted) -> Result<Revoke, StoreError> {
        let mut is_noted = noted == Noted::Nowhere;
        'again: for _ in 0..TRIES {
            let mut head = self.head().await?;
            let known = self.read_revocation(&new.name).await?;
            let entry = known.as_ref().map_or_else(|| new.clone(), |known| known.and(new));
            if known.as_ref() == Some(&entry) {
                return Ok(Revoke::Stored { entries: vec![entry], widened: Vec::new() });
            }
            let is_full =
                known.is_none() && usize::try_from(head.count).unwrap_or(usize::MAX) >= self.most_revocations;
            let mut before = Table::from_iter(known.map(|known| (known.name.clone(), known)));
            let change = if is_full {
                let all = self.read_revocations().await?;
                before = all.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
                match table::add(&before, entry, now_secs(), self.most_revocations) {
                    Ok(change) => change,
                    Err(full) => return Ok(Revoke::Full(full)),
                }
            } else {
                Change { put: vec![entry], ..Change::default() }
            };
            for part in parts(&change, &before) {
                let event = Event::Revoked { revocation: new.clone(), widened: change.widened.clone() };
                let log = (!is_noted).then(|| Entry::of_revocation(new, &new.by, event));
                match self.write_part(head, &part, log.as_ref()).await? {
                    Some(next) => head = next,
                    // What is written already says no less: the rest is found again.
                    None => continue 'again,
                }
                is_noted = true;
            }
            return Ok(Revoke::Stored { entries: change.put, widened: change.widened });
        }
        Err(busy("revoking"))
    }

    /// Takes an entry out.
    pub(super) async fn remove_revocation(
        &self,
        name: &str,
        by: &str,
    ) -> Result<Option<Revocation>, StoreError> {
        for _ in 0..TRIES {
            let head = self.head().await?;
            let Some(revocation) = self.read_revocation(name).await? else { return Ok(None) };
            let event = Event::Restored { operator: by.to_owned(), revocation: revocation.clone() };
            let log = Entry::of_revocation(&revocation, by, event);
            let part = Part { put: &[], gone: &[name.to_owned()], more: -1 };
            if self.write_part(head, &part, Some(&log)).await?.is_some() {
                return Ok(Some(revocation));
            }
        }
        Err(busy("taking a revocation back"))
    }

    /// Takes away what has expired.
    pub(super) async fn sweep_expired(&self) -> Result<usize, StoreError> {
        let now = now_secs();
        for _ in 0..TRIES {
            let mut head = self.head().await?;
            let all = self.read_revocations().await?;
            let expired = all.into_iter().filter(|entry| entry.has_expired(now)).map(|entry| entry.name);
            let expired: Vec<_> = expired.collect();
            let mut swept = 0;
            for gone in expired.chunks(MOST_TOGETHER) {
                let part = Part { put: &[], gone, more: -signed(gone.len()) };
                let Some(next) = self.write_part(head, &part, None).await? else { break };
                (head, swept) = (next, swept + gone.len());
            }
            if swept == expired.len() {
                return Ok(swept);
            }
        }
        Err(busy("sweeping revocations"))
    }

    /// Writes upon what was read; what it is then, or nothing, when somebody else was faster.
    async fn write_part(
        &self,
        head: Head,
        part: &Part<'_>,
        log: Option<&Entry>,
    ) -> Result<Option<Head>, StoreError> {
        let failed = |error| failed("writing revocations", error);
        let next = Head { version: head.version + 1, count: head.count.saturating_add_signed(part.more) };
        let row = Item::at(&head_key()).number("version", next.version).number("count", next.count);
        let counted = Action::put(row);
        let counted = if head.version == 0 {
            counted.only_new()
        } else {
            counted.only_if("#version = :version").with_number("version", head.version)
        };
        // A place in the log, so that other processes look.
        let at = self.log.take().await.map_err(failed)?;
        let mut actions = vec![counted, Log::entry(at, None)];
        for entry in part.put {
            actions.push(Action::put(Item::at(&key(&entry.name)).text("body", json(entry)?)));
        }
        actions.extend(part.gone.iter().map(|name| Action::delete(key(name))));
        if let Some(log) = log {
            actions.extend(audit_rows(log, at)?);
        }
        match self.table.write(actions).await.map_err(failed)? {
            Ok(()) => {
                self.announce();
                Ok(Some(next))
            }
            Err(refused) => {
                if !refused.contains(&LOG_AT) {
                    self.log.close(at).await.map_err(failed)?;
                }
                Ok(None)
            }
        }
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is written together. First all that is new: what goes is part of it, and must not go before.
fn parts<'a>(change: &'a Change, before: &BTreeMap<String, Revocation>) -> Vec<Part<'a>> {
    let Change { put, gone, .. } = change;
    let added =
        |put: &[Revocation]| signed(put.iter().filter(|entry| !before.contains_key(&entry.name)).count());
    if put.len() + gone.len() <= MOST_TOGETHER {
        return vec![Part { put, gone, more: added(put) - signed(gone.len()) }];
    }
    let puts = put.chunks(MOST_TOGETHER).map(|put| Part { put, gone: &[], more: added(put) });
    let removals = gone.chunks(MOST_TOGETHER).map(|gone| Part { put: &[], gone, more: -signed(gone.len()) });
    puts.chain(removals).collect()
}
