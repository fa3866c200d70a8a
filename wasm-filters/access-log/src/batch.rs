//! Holds lines until the collector has them: bounded, and with counters that always add up.
//!
//! At every moment `requests = sent + buffered + dropped + failed + sampled_out`, where `buffered` counts
//! the lines that wait and those that are in flight. Nothing is sent from here.

use std::{collections::VecDeque, mem};

use crate::Record;

/// One post is being answered while the next is on its way; more would only hide a slow collector.
const MAX_IN_FLIGHT: usize = 2;

/// Full batches that wait while two are in flight: 2 MiB of a worker's memory at 64 KiB each. That is some
/// 3,000 lines, which at 2,000 requests per second and worker outlasts the collector's restart.
const MAX_WAITING: usize = 32;

/// What became of the requests so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// All that were seen.
    pub requests: u64,
    /// Lines that the collector has taken.
    pub sent: u64,
    /// Lines that found the buffer full.
    pub dropped: u64,
    /// Lines that the collector did not take.
    pub failed: u64,
    /// Requests that made no line.
    pub sampled_out: u64,
}

/// Lines on their way from the filter to the collector.
#[derive(Debug)]
pub struct Batch {
    max_bytes: usize,
    /// Being filled.
    open: Lines,
    /// Full, oldest first.
    full: VecDeque<Lines>,
    in_flight: usize,
    in_flight_lines: u64,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    count: u64,
}

/// One body to post. Whoever takes it owes [`Batch::settle`] its receipt.
#[derive(Debug)]
pub struct Delivery {
    /// Lines of JSON.
    pub body: Vec<u8>,
    /// To be given back with the outcome.
    pub receipt: Receipt,
}

/// Stands for the lines of one delivery; cannot be copied, so that they are settled once.
#[derive(Debug)]
#[must_use = "a delivery whose receipt is lost stays in flight for ever"]
pub struct Receipt {
    lines: u64,
}

/// How a delivery ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The collector has the lines.
    Ok,
    /// It has not, or nobody knows. They are not sent again.
    Failed,
}

impl Batch {
    /// An empty one. `max_bytes` is the length of a body, at least [`crate::MAX_LINE_BYTES`].
    pub fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            open: Lines::default(),
            full: VecDeque::new(),
            in_flight: 0,
            in_flight_lines: 0,
            counters: Counters::default(),
        }
    }

    /// Adds a record's line, or counts it as dropped when there is no room.
    pub fn push(&mut self, record: &Record) {
        self.counters.requests += 1;
        let start = self.open.bytes.len();
        record.write(&mut self.open.bytes);
        if self.open.bytes.len() > self.max_bytes && !self.start_anew_from(start) {
            self.open.bytes.truncate(start);
            self.counters.dropped += 1;
            return;
        }
        self.open.count += 1;
    }

    /// Counts a request that made no line.
    pub fn sample_out(&mut self) {
        self.counters.requests += 1;
        self.counters.sampled_out += 1;
    }

    /// Whether a full batch could be sent now.
    pub fn is_due(&self) -> bool {
        !self.full.is_empty() && self.in_flight < MAX_IN_FLIGHT
    }

    /// The oldest lines, full batch or not. `None` when there are none, or while two deliveries are in flight.
    pub fn take(&mut self) -> Option<Delivery> {
        if self.in_flight >= MAX_IN_FLIGHT {
            return None;
        }
        let lines = self.full.pop_front().unwrap_or_else(|| mem::take(&mut self.open));
        if lines.count == 0 {
            return None;
        }
        self.in_flight += 1;
        self.in_flight_lines += lines.count;
        Some(Delivery { body: lines.bytes, receipt: Receipt { lines: lines.count } })
    }

    /// Ends a delivery that [`Batch::take`] began.
    #[expect(clippy::needless_pass_by_value, reason = "a receipt is spent, so that it cannot count twice")]
    pub fn settle(&mut self, receipt: Receipt, outcome: Outcome) {
        let Receipt { lines } = receipt;
        // Saturating, for a receipt of another batch must not bring the filter down.
        self.in_flight = self.in_flight.saturating_sub(1);
        self.in_flight_lines = self.in_flight_lines.saturating_sub(lines);
        match outcome {
            Outcome::Ok => self.counters.sent += lines,
            Outcome::Failed => self.counters.failed += lines,
        }
    }

    /// What became of the requests so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Lines that wait or are in flight.
    pub fn buffered(&self) -> u64 {
        let waiting: u64 = self.full.iter().map(|lines| lines.count).sum();
        self.open.count + waiting + self.in_flight_lines
    }

    /// Whether a delivery awaits its end.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight > 0
    }

    /// Closes the open batch before `start`, and begins the next with what stands behind it. Does nothing
    /// when too many wait already, or when that line alone is too long.
    fn start_anew_from(&mut self, start: usize) -> bool {
        if self.full.len() >= MAX_WAITING || self.open.bytes.len() - start > self.max_bytes {
            return false;
        }
        let bytes = self.open.bytes.split_off(start);
        self.full.push_back(mem::replace(&mut self.open, Lines { bytes, count: 0 }));
        true
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Facts, Settings};

    fn record(path_bytes: usize) -> Record {
        let facts = Facts { path: Some("p".repeat(path_bytes)), ..Facts::default() };
        Record::from_facts(&Settings::default(), facts).unwrap()
    }

    fn line_bytes(record: &Record) -> usize {
        let mut out = Vec::new();
        record.write(&mut out);
        out.len()
    }

    fn adds_up(batch: &Batch) -> bool {
        let Counters { requests, sent, dropped, failed, sampled_out } = batch.counters();
        requests == sent + batch.buffered() + dropped + failed + sampled_out
    }

    #[test]
    fn lines_leave_in_the_order_in_which_they_came() {
        let mut batch = Batch::new(1 << 20);
        let mut expected = Vec::new();
        for length in [1, 2, 3] {
            batch.push(&record(length));
            record(length).write(&mut expected);
        }
        assert!(!batch.is_due());
        assert_eq!(batch.take().unwrap().body, expected);
        assert!(batch.take().is_none());
    }

    #[test]
    fn a_full_batch_is_due_and_never_longer_than_allowed() {
        let mut batch = Batch::new(2 * line_bytes(&record(10)));
        batch.push(&record(10));
        batch.push(&record(10));
        assert!(!batch.is_due());
        batch.push(&record(10));
        assert!(batch.is_due());
        assert_eq!(batch.take().unwrap().body.len(), 2 * line_bytes(&record(10)));
        assert!(!batch.is_due());
        assert_eq!(batch.take().unwrap().body.len(), line_bytes(&record(10)));
    }

    #[test]
    fn at_most_two_deliveries_are_in_flight() {
        let mut batch = Batch::new(line_bytes(&record(10)));
        for _ in 0..4 {
            batch.push(&record(10));
        }
        let (first, second) = (batch.take().unwrap(), batch.take().unwrap());
        assert!(batch.take().is_none() && !batch.is_due());
        batch.settle(first.receipt, Outcome::Ok);
        assert!(batch.is_due());
        let third = batch.take().unwrap();
        batch.settle(second.receipt, Outcome::Failed);
        batch.settle(third.receipt, Outcome::Ok);
        assert!(!batch.is_in_flight());
        let counters = batch.counters();
        assert_eq!((counters.requests, counters.sent, counters.failed, batch.buffered()), (4, 2, 1, 1));
    }

    #[test]
    fn lines_are_dropped_and_counted_while_the_buffer_is_full() {
        let mut batch = Batch::new(line_bytes(&record(10)));
        for _ in 0..100 {
            batch.push(&record(10));
        }
        assert_eq!(batch.buffered(), MAX_WAITING as u64 + 1);
        assert_eq!(batch.counters().dropped, 100 - batch.buffered());
        let delivery = batch.take().unwrap();
        batch.settle(delivery.receipt, Outcome::Ok);
        batch.push(&record(10));
        assert_eq!((batch.counters().requests, batch.counters().sent), (101, 1));
        assert!(adds_up(&batch));
    }

    #[test]
    fn a_line_longer_than_a_batch_is_dropped_and_the_others_stay() {
        let mut batch = Batch::new(line_bytes(&record(10)));
        batch.push(&record(10));
        batch.push(&record(11));
        assert_eq!((batch.counters().dropped, batch.buffered()), (1, 1));
        assert_eq!(batch.take().unwrap().body.len(), line_bytes(&record(10)));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Push(usize),
        SampleOut,
        Take,
        Settle(bool),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0usize..600).prop_map(Step::Push),
            1 => Just(Step::SampleOut),
            1 => Just(Step::Take),
            1 => any::<bool>().prop_map(Step::Settle),
        ]
    }

    proptest! {
        #[test]
        fn the_counters_add_up_after_every_step(max_bytes in 100usize..2_000, steps in proptest::collection::vec(step(), 0..200)) {
            let mut batch = Batch::new(max_bytes);
            let mut receipts = VecDeque::new();
            for step in steps {
                match step {
                    Step::Push(length) => batch.push(&record(length)),
                    Step::SampleOut => batch.sample_out(),
                    Step::Take => if let Some(delivery) = batch.take() {
                        prop_assert!(delivery.body.len() <= max_bytes && delivery.body.ends_with(b"\n"));
                        let lines = delivery.body.split_inclusive(|byte| *byte == b'\n').count();
                        prop_assert_eq!(lines as u64, delivery.receipt.lines);
                        receipts.push_back(delivery.receipt);
                    },
                    Step::Settle(ok) => if let Some(receipt) = receipts.pop_front() {
                        batch.settle(receipt, if ok { Outcome::Ok } else { Outcome::Failed });
                    },
                }
                prop_assert!(adds_up(&batch), "{batch:?}");
                prop_assert!(receipts.len() <= MAX_IN_FLIGHT);
                let held: usize = batch.full.iter().map(|lines| lines.bytes.len()).sum();
                prop_assert!(held + batch.open.bytes.len() <= (MAX_WAITING + 1) * max_bytes);
            }
        }
    }
}
