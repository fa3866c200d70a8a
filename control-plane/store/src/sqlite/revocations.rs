//! Revocations in SQLite: small writes within a transaction, and a look at all of them only when they are full.

use model::{
    audit::{Entry, Event},
    revocation::{
        Revocation,
        table::{self, Change},
    },
};
use sqlite::{
    Error, Written, now_ms,
    rusqlite::{Connection, OptionalExtension as _, params},
};

use super::{parsed, write_entry};
use crate::{Noted, Revoke};

/// Expired ones that a write takes along: there are seldom more, and the next one takes the rest.
const SWEPT_ALONG: usize = 500;

pub(super) fn now_secs() -> u64 {
    u64::try_from(now_ms() / 1_000).unwrap_or(0)
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Writes an entry, or what a table that is full of others becomes by it.
pub(super) fn put(
    db: &Connection,
    new: &Revocation,
    most: usize,
    noted: Noted,
) -> Result<Written<Revoke>, Error> {
    let now = now_secs();
    sweep(db, now, SWEPT_ALONG)?;
    let known = read_one(db, &new.name)?;
    let entry = known.as_ref().map_or_else(|| new.clone(), |known| known.and(new));
    if known.as_ref() == Some(&entry) {
        return Ok(Written::Keep(Revoke::Stored { entries: vec![entry], widened: Vec::new() }));
    }
    let count: i64 = db.query_row("SELECT count(*) FROM revocations", [], |row| row.get(0))?;
    let is_full = known.is_none() && usize::try_from(count).unwrap_or(usize::MAX) >= most;
    let change = if is_full {
        let all = read_all(db)?.into_iter().map(|entry| (entry.name.clone(), entry)).collect();
        match table::add(&all, entry, now, most) {
            Ok(change) => change,
            Err(full) => return Ok(Written::Undo(Revoke::Full(full))),
        }
    } else {
        Change { put: vec![entry], ..Change::default() }
    };
    for entry in &change.put {
        let body = serde_json::to_string(entry)?;
        db.prepare_cached("INSERT OR REPLACE INTO revocations VALUES (?1, ?2, ?3)")?.execute(params![
            entry.name,
            signed(entry.expires),
            body
        ])?;
    }
    for name in &change.gone {
        db.prepare_cached("DELETE FROM revocations WHERE name = ?1")?.execute([name])?;
    }
    count_up(db)?;
    let Change { put, widened, .. } = change;
    if noted == Noted::InTheLog {
        let event = Event::Revoked { revocation: new.clone(), widened: widened.clone() };
        note(db, &Entry::of_revocation(new, &new.by, event))?;
    }
    Ok(Written::Keep(Revoke::Stored { entries: put, widened }))
}

/// Takes an entry out.
pub(super) fn remove(db: &Connection, name: &str, by: &str) -> Result<Written<Option<Revocation>>, Error> {
    let Some(revocation) = read_one(db, name)? else { return Ok(Written::Keep(None)) };
    db.prepare_cached("DELETE FROM revocations WHERE name = ?1")?.execute([name])?;
    count_up(db)?;
    let event = Event::Restored { operator: by.to_owned(), revocation: revocation.clone() };
    note(db, &Entry::of_revocation(&revocation, by, event))?;
    Ok(Written::Keep(Some(revocation)))
}

/// All of them, if their version is not the known one.
pub(super) fn since(db: &Connection, known: Option<u64>) -> Result<Option<(Vec<Revocation>, u64)>, Error> {
    // Read first: what is written in between is read twice, and not never.
    let version: i64 = db.query_row("SELECT last FROM revocations_version", [], |row| row.get(0))?;
    let version = u64::try_from(version).unwrap_or(0);
    if known == Some(version) { Ok(None) } else { Ok(Some((read_all(db)?, version))) }
}

/// Takes away what has expired.
pub(super) fn sweep(db: &Connection, now: u64, most: usize) -> Result<usize, Error> {
    let sql = "DELETE FROM revocations WHERE name IN
               (SELECT name FROM revocations WHERE expires > 0 AND expires <= ?1 LIMIT ?2)";
    let most = i64::try_from(most).unwrap_or(i64::MAX);
    let swept = db.prepare_cached(sql)?.execute(params![signed(now), most])?;
    if swept > 0 {
        count_up(db)?;
    }
    Ok(swept)
}

pub(super) fn read_one(db: &Connection, name: &str) -> Result<Option<Revocation>, Error> {
    let body = db
        .prepare_cached("SELECT body FROM revocations WHERE name = ?1")?
        .query_row([name], |row| row.get::<_, String>(0))
        .optional()?;
    body.map(|body| parsed(&body)).transpose()
}

fn read_all(db: &Connection) -> Result<Vec<Revocation>, Error> {
    let mut query = db.prepare_cached("SELECT body FROM revocations ORDER BY name")?;
    let bodies = query.query_map([], |row| row.get::<_, String>(0))?;
    bodies.map(|body| parsed(&body?)).collect()
}

fn count_up(db: &Connection) -> Result<(), Error> {
    db.prepare_cached("UPDATE revocations_version SET last = last + 1")?.execute([])?;
    Ok(())
}

fn note(db: &Connection, entry: &Entry) -> Result<(), Error> {
    write_entry(db, entry, &serde_json::to_string(entry)?)
}
