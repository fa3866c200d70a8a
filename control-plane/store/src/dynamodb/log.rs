//! In which order instances were written: one row for each write, at the place that its writer took.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use aws::{Action, Error, Item, Key, Order, Page, Table};
use model::InstanceId;

use super::rows::{expiring, place};

const LOG: &str = "log";
const SETTLED: &str = "settled";
/// A writer that takes longer takes another place.
const PATIENCE: Duration = Duration::from_secs(2);
/// A reader that is further behind reads everything.
const MOST_BEHIND: u64 = 5_000;
/// So long are places kept, for readers that were asleep.
const KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

#[derive(Debug)]
pub(super) struct Log {
    table: Table,
    /// Empty places, and since when they are known to this reader.
    gaps: Mutex<BTreeMap<u64, Instant>>,
}

/// What a reader has to read.
pub(super) enum News {
    /// Nothing.
    None,
    /// These, in the order of their last change; and where it is then.
    Changed(Vec<InstanceId>, u64),
    /// All there is; and where it is then.
    Everything(u64),
}

/// The places between a reader and the end of the log.
struct Ahead {
    /// Whose they are, up to the first empty one.
    written: Vec<Option<InstanceId>>,
    /// The last before the first empty one.
    settled: u64,
    empty: Vec<u64>,
}

fn counter(name: &str) -> Key {
    Key::new("counters", name)
}

impl Log {
    pub(super) fn new(table: Table) -> Self {
        Self { table, gaps: Mutex::default() }
    }

    /// The last place that was taken.
    pub(super) async fn last(&self) -> Result<u64, Error> {
        self.counted(LOG).await
    }

    /// Up to where every place is known to be written or closed. A hint: it saves new readers the way.
    async fn settled(&self) -> Result<u64, Error> {
        self.counted(SETTLED).await
    }

    async fn counted(&self, name: &str) -> Result<u64, Error> {
        let row = self.table.get(&counter(name)).await?;
        Ok(row.map(|row| row.get_number("last")).transpose()?.flatten().unwrap_or(0))
    }

    /// The next place, which nobody else has.
    pub(super) async fn take(&self) -> Result<u64, Error> {
        self.table.count_up(&counter(LOG), "last").await
    }

    /// What a writer writes at its place, with all that it writes. Refused, when the place was closed.
    pub(super) fn entry(at: u64, instance: Option<&InstanceId>) -> Action {
        let row = Item::at(&Key::new(LOG, place(at)));
        let row = match instance {
            Some(id) => row.text("instance", id.as_str()),
            None => row,
        };
        Action::put(expiring(row, KEPT)).only_new()
    }

    /// Nothing will be written here, unless it was.
    pub(super) async fn close(&self, at: u64) -> Result<(), Error> {
        // Refused, when it was written at the last moment: that is as good.
        self.table.write(vec![Self::entry(at, None)]).await.map(drop)
    }

    pub(super) fn has_gaps(&self) -> bool {
        !self.gaps.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Notes the empty places; those that are empty for too long.
    fn overdue(&self, empty: &[u64]) -> Vec<u64> {
        let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
        gaps.retain(|at, _| empty.contains(at));
        let now = Instant::now();
        let overdue = |at: &&u64| now.duration_since(*gaps.entry(**at).or_insert(now)) >= PATIENCE;
        empty.iter().filter(overdue).copied().collect()
    }

    pub(super) async fn since(&self, position: u64) -> Result<News, Error> {
        let last = self.last().await?;
        if last == position {
            return Ok(News::None);
        }
        let from = if position == 0 || last.saturating_sub(position) > MOST_BEHIND {
            self.settled().await?
        } else {
            position
        };
        let ahead = self.ahead(from, last).await?;
        let overdue = self.overdue(&ahead.empty);
        if !overdue.is_empty() {
            tracing::warn!(places = ?overdue, "closing places in the log whose writers did not come");
            for at in &overdue {
                self.close(*at).await?;
            }
            // Closed, or just written, or long gone from the log: what is not known is not relied upon.
            let settled = self.ahead(from, last).await?.settled;
            self.settle(settled).await?;
            return Ok(News::Everything(settled));
        }
        if from != position {
            self.settle(ahead.settled).await?;
            return Ok(News::Everything(ahead.settled));
        }
        // Each once, at its last place.
        let mut seen = HashSet::new();
        let mut ids: Vec<_> =
            ahead.written.into_iter().rev().flatten().filter(|id| seen.insert(id.clone())).collect();
        ids.reverse();
        Ok(if ahead.settled == position { News::None } else { News::Changed(ids, ahead.settled) })
    }

    async fn settle(&self, at: u64) -> Result<(), Error> {
        self.table.put(Item::at(&counter(SETTLED)).number("last", at)).await
    }

    async fn ahead(&self, from: u64, last: u64) -> Result<Ahead, Error> {
        let (first, end) = (place(from + 1), place(last));
        let page = Page { pk: LOG, from: Some(&first), to: Some(&end), order: Order::Ascending, most: None };
        let mut ahead = Ahead { written: Vec::new(), settled: last, empty: Vec::new() };
        let mut rows = BTreeMap::new();
        for row in self.table.read(page).await? {
            let at =
                row.get_text("sk")?.parse::<u64>().map_err(|_| Error::told("a place without a number"))?;
            rows.insert(at, row);
        }
        for at in from + 1..=last {
            match rows.get(&at) {
                None => ahead.empty.push(at),
                Some(row) if ahead.empty.is_empty() => {
                    let id = row.get_text("instance").ok().map(|id| InstanceId::try_from(id.to_owned()));
                    let id = id.transpose().map_err(|error| Error::told(error.to_string()))?;
                    ahead.written.push(id);
                }
                Some(_) => {}
            }
        }
        if let Some(empty) = ahead.empty.first() {
            ahead.settled = empty - 1;
        }
        Ok(ahead)
    }
}
