//! The short form of `cargo xtask soak fuzz`: everything that reads what others send, with a few thousand inputs that nobody
//! means, changed in the same way each time.

use tests::fuzz;

/// Seconds in a debug build.
const CHANGES: usize = 3_000;
const SEED: u64 = 2026;

#[test]
fn nothing_that_others_send_breaks_what_must_hold() {
    for target in fuzz::targets() {
        target.run(SEED, CHANGES);
    }
}
