//! How fast a job is, and when it may end.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Older samples say little about now.
const WINDOW: Duration = Duration::from_secs(15);
/// Closer samples say little at all.
const STEP: Duration = Duration::from_millis(400);

/// The rate of a counter over the last seconds.
#[derive(Debug, Default)]
pub struct Rate {
    samples: VecDeque<(Instant, u64)>,
}

impl Rate {
    /// Takes a sample of the counter.
    pub fn sample(&mut self, now: Instant, value: u64) {
        if self.samples.back().is_some_and(|&(last, _)| now.saturating_duration_since(last) < STEP) {
            return;
        }
        self.samples.push_back((now, value));
        while self.samples.len() > 2
            && self.samples.front().is_some_and(|&(first, _)| now.saturating_duration_since(first) > WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Units per second; 0 while unknown.
    pub fn per_second(&self) -> u64 {
        let (Some(&(first, low)), Some(&(last, high))) = (self.samples.front(), self.samples.back()) else { return 0 };
        let elapsed = last.saturating_duration_since(first).as_millis();
        if elapsed == 0 {
            return 0;
        }
        let rate = u128::from(high.saturating_sub(low)).saturating_mul(1000) / elapsed;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

/// How long the rest takes if it goes on as before; `None` while nobody can know.
pub fn remaining(done: u64, total: u64, elapsed: Duration) -> Option<Duration> {
    if done == 0 || total <= done || elapsed < Duration::from_secs(1) {
        return None;
    }
    #[allow(clippy::cast_precision_loss)]
    let seconds = elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_counter_has_its_rate() {
        let start = Instant::now();
        let mut rate = Rate::default();
        for second in 0..60 {
            rate.sample(start + Duration::from_secs(second), second * 1000);
        }
        assert_eq!(rate.per_second(), 1000);
        assert!(rate.samples.len() < 20, "the window is bounded");
    }

    #[test]
    fn the_end_is_unknown_until_something_is_known() {
        assert_eq!(remaining(0, 10, Duration::from_secs(5)), None);
        assert_eq!(remaining(5, 0, Duration::from_secs(5)), None);
        assert_eq!(remaining(5, 10, Duration::from_secs(5)), Some(Duration::from_secs(5)));
    }
}
