//! `Window`: how often something happened lately.
//!
//! Invariant: remembers the times of the last `within`, at most as many as the limit; exact, not a bucket. Memory grows with
//! what happened, up to the limit.

use std::collections::VecDeque;

/// The restarts that count.
#[derive(Default)]
pub(crate) struct Window(VecDeque<u64>);

impl Window {
    /// How many happened in the `within_ns` before `now_ns`.
    pub(crate) fn count(&mut self, now_ns: u64, within_ns: u64) -> u32 {
        while self.0.front().is_some_and(|at_ns| now_ns.saturating_sub(*at_ns) >= within_ns) {
            self.0.pop_front();
        }
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// One more happens now.
    pub(crate) fn push(&mut self, now_ns: u64) {
        self.0.push_back(now_ns);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn what_is_as_old_as_the_window_counts_no_more() {
        let mut window = Window::default();
        for at_ns in [10, 20, 20, 35] {
            window.push(at_ns);
        }
        assert_eq!(window.count(35, 30), 4);
        assert_eq!(window.count(39, 30), 4);
        assert_eq!(window.count(40, 30), 3);
        assert_eq!(window.count(50, 30), 1);
        assert_eq!(window.count(65, 30), 0);
        assert_eq!(window.0.len(), 0);
    }
}
