//! Counters of shards, written by one thread each and readable from any.
//!
//! Invariant: each value only grows; a reader sees values of one recent turn, not of one instant across shards.

use std::sync::atomic::{AtomicU64, Ordering};

use shardstage_codec::ShardId;

macro_rules! counters {
    ($($(#[doc = $help:literal])* $name:ident),* $(,)?) => {
        /// What one shard has done since its engine started.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[non_exhaustive]
        pub struct ShardStats {
            /// The shard.
            pub shard: u16,
            $($(#[doc = $help])* pub $name: u64,)*
        }

        impl ShardStats {
            /// Each counter's name, and what it says.
            pub(crate) const FIELDS: &[(&str, &str)] = &[$((stringify!($name), concat!($($help),*)),)*];

            /// The counter of this name.
            pub(crate) fn get(&self, name: &str) -> Option<u64> {
                match name {
                    $(stringify!($name) => Some(self.$name),)*
                    _ => None,
                }
            }
        }

        /// The published copy of a shard's counters.
        #[derive(Default)]
        #[repr(align(128))]
        pub(crate) struct ShardCounters {
            $($name: AtomicU64,)*
        }

        impl ShardCounters {
            pub(crate) fn publish(&self, stats: &ShardStats) {
                $(self.$name.store(stats.$name, Ordering::Relaxed);)*
            }

            /// How many turns have ended.
            pub(crate) fn turns(&self) -> u64 {
                self.turns.load(Ordering::Relaxed)
            }

            pub(crate) fn read(&self, shard: ShardId) -> ShardStats {
                ShardStats { shard: shard.get(), $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Messages that met their handler.
    handled,
    /// Turns taken.
    turns,
    /// Turns that took longer than [`Config::long_turn`](crate::Config::long_turn).
    long_turns,
    /// Nanoseconds spent in turns that found work.
    busy_ns,
    /// Nanoseconds since the shard started.
    elapsed_ns,
    /// Times the shard went to sleep.
    parks,
    /// Panics of user code that were contained.
    panics,
    /// Messages dropped before work because their deadline had passed.
    expired,
    /// Messages dropped before work because nobody waited for their answer any more: the asker had dropped its ask, had been
    /// told that its deadline was over, or was a node whose session had ended.
    cancelled,
    /// Messages sent to other shards of this engine.
    ring_sent,
    /// Messages received from other shards of this engine.
    ring_received,
    /// Frames sent to other nodes.
    frames_sent,
    /// Frames received from other nodes.
    frames_received,
    /// Messages to many receivers that were encoded, once for each other node.
    fan_out_encoded,
    /// Messages to many receivers that were allocated, once for each shard with receivers.
    fan_out_shared,
    /// Frames and replies refused because of their epoch.
    fenced,
    /// Ticks of repeating timers that were left out because the shard was late.
    missed_ticks,
    /// Virtual actors that were activated.
    activated,
    /// Virtual actors that left because they were idle, too many, or told to.
    passivated,
    /// Actors that live on the shard.
    actors,
    /// Asks whose reply has not come yet.
    asks,
    /// Timers that have not fired or been cancelled.
    timers,
}

impl ShardStats {
    /// The part of the time since `earlier` in which the shard was busy, from 0 to 1: of the counters' whole time if `earlier`
    /// is [`ShardStats::default`].
    #[must_use]
    pub fn busy_share(&self, earlier: &Self) -> f64 {
        let elapsed = self.elapsed_ns.saturating_sub(earlier.elapsed_ns).max(1);
        let busy = self.busy_ns.saturating_sub(earlier.busy_ns);
        (busy as f64 / elapsed as f64).min(1.0)
    }
}
