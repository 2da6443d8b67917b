//! How many of what `n` operations are, where they come in fixed shapes; the same for everyone.

use std::time::Duration;

use crate::limits::BIG_ACTORS;

/// How often each actor of `big` pings when about `n` messages, pings and pongs, are wanted.
#[must_use]
pub fn big_pings(n: u64) -> u64 {
    (n / (2 * BIG_ACTORS)).max(1)
}

/// Messages that `big` sends when about `n` are wanted.
#[must_use]
pub fn big_messages(n: u64) -> u64 {
    big_pings(n) * BIG_ACTORS * 2
}

/// One tree of actors.
#[derive(Clone, Copy, Debug)]
pub struct Tree {
    /// Which Fibonacci number it computes.
    pub index: u32,
    sum: u64,
    actors: u64,
}

/// The largest tree of at most `n` actors.
#[must_use]
pub fn fibonacci_for(n: u64) -> Tree {
    let (mut sum, mut next, mut index) = (1, 1, 1);
    while 2 * next - 1 <= n {
        (sum, next) = (next, sum + next);
        index += 1;
    }
    Tree { index, sum, actors: 2 * sum - 1 }
}

impl Tree {
    /// What `n` actors would have taken if this tree took `elapsed`.
    ///
    /// # Panics
    /// When the tree computed something else.
    #[must_use]
    pub fn elapsed(self, elapsed: Duration, sum: u64, n: u64) -> Duration {
        assert_eq!(sum, self.sum, "fibonacci({})", self.index);
        elapsed.mul_f64(n as f64 / self.actors as f64)
    }
}

/// What `n` messages would have taken if the messages of `big` for `n` took `elapsed`.
#[must_use]
pub fn big_elapsed(elapsed: Duration, n: u64) -> Duration {
    elapsed.mul_f64(n as f64 / big_messages(n) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{FIBONACCI, FIBONACCI_ACTORS};

    #[test]
    fn the_tree_of_the_goals_is_found() {
        let tree = fibonacci_for(FIBONACCI_ACTORS);
        assert_eq!((tree.index, tree.sum, tree.actors), (FIBONACCI, 28_657, FIBONACCI_ACTORS));
        assert_eq!(fibonacci_for(FIBONACCI_ACTORS - 1).index, FIBONACCI - 1);
        assert_eq!(fibonacci_for(1).sum, 1);
    }
}
