//! Waits for engines that cannot be asked whether background work is left.

use std::time::{Duration, Instant};

use terrace_benches::process_time;

use crate::usage::Written;

/// How often it looks.
const STEP: Duration = Duration::from_millis(10);
/// Quiet for so long is at rest.
const QUIET: Duration = Duration::from_millis(200);
/// Processor time that threads use while they wait, in one step.
const IDLE: Duration = Duration::from_millis(1);

/// Waits until `is_busy` says no, and this process neither computes nor writes, for a while.
pub fn wait(is_busy: impl Fn() -> bool) {
    let mut since = Instant::now();
    let mut seen = (process_time(), Written::now());
    while since.elapsed() < QUIET {
        std::thread::sleep(STEP);
        let now = (process_time(), Written::now());
        if is_busy() || now.0.saturating_sub(seen.0) > IDLE || now.1 != seen.1 {
            since = Instant::now();
        }
        seen = now;
    }
}
