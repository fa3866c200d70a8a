//! Clients that have stopped to read: how long the streams of one connection wait for room.

use std::{
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use crate::hub::Hub;

/// Of one connection. Whoever runs it puts this among the extensions of each request, and ends the connection when
/// it is stuck.
#[derive(Debug, Clone)]
pub struct Undelivered(Arc<Connection>);

#[derive(Debug)]
struct Connection {
    hub: Arc<Hub>,
    opened: Instant,
    streams: Mutex<Vec<Weak<AtomicU64>>>,
}

/// Nothing waits.
const NOTHING: u64 = u64::MAX;

impl Undelivered {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self(Arc::new(Connection { hub, opened: Instant::now(), streams: Mutex::default() }))
    }

    /// Whether a client has read nothing for longer than any push takes. It is counted.
    pub fn is_stuck(&self) -> bool {
        let Connection { hub, streams, .. } = &*self.0;
        let (now, deadline) = (self.0.millis(), hub.limits.send_deadline);
        let mut streams = streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|since| since.strong_count() > 0);
        let waits = |since: &Arc<AtomicU64>| now.checked_sub(since.load(Ordering::Relaxed));
        let waits = streams.iter().filter_map(|since| waits(&since.upgrade()?));
        let stuck = waits.filter(|millis| u128::from(*millis) > deadline.as_millis()).count();
        hub.metrics.stuck_streams.inc_by(stuck as u64);
        stuck > 0
    }

    pub(crate) fn ticket(&self) -> Ticket {
        let since = Arc::new(AtomicU64::new(NOTHING));
        self.0.streams.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&since));
        Ticket { since, connection: self.0.clone() }
    }
}

impl Connection {
    fn millis(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NOTHING)
    }
}

/// One stream of the connection: since when something waits, in milliseconds of the connection.
pub(crate) struct Ticket {
    since: Arc<AtomicU64>,
    connection: Arc<Connection>,
}

impl Ticket {
    /// Something waits from now on.
    pub(crate) fn set(&self) {
        self.since.store(self.connection.millis(), Ordering::Relaxed);
    }

    /// It is on its way.
    pub(crate) fn clear(&self) {
        self.since.store(NOTHING, Ordering::Relaxed);
    }
}
