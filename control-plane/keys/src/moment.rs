//! Time that jumps and time that does not, as one: what is measured is never shorter than either says.

use std::{sync::Arc, time::Duration};

use runtime::Clock;
use tokio::time::Instant;

/// A point in time, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment {
    /// Since the Unix epoch, by the wall clock: somebody may set it, and it goes on while the machine sleeps.
    pub(crate) wall: Duration,
    /// Since this process began: nobody can set it.
    pub(crate) running: Duration,
}

impl Moment {
    /// At least this long ago: a wall clock that is set back makes nothing younger.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        self.wall.saturating_sub(earlier.wall).max(self.running.saturating_sub(earlier.running))
    }
}

/// Tells moments.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    clock: Arc<dyn Clock>,
    begun: Instant,
}

impl Timeline {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, begun: Instant::now() }
    }

    pub(crate) fn now(&self) -> Moment {
        Moment { wall: Duration::from_secs(self.clock.unix_seconds()), running: self.begun.elapsed() }
    }
}
