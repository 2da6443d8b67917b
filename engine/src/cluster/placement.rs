//! Placement: slot group -> (node, epoch), and slot -> shard within a node.
//!
//! Invariant: with a fixed node list the owner of a group never changes and every epoch is 1; readers compare epochs all the
//! same, so that later work raises numbers instead of adding checks.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use shardstage_codec::limits::GROUP_COUNT;
use shardstage_codec::{Epoch, GroupId, NodeId, Slot};

struct Group {
    owner: AtomicU32,
    epoch: AtomicU64,
}

/// The placement table of one engine; read from any thread.
pub(crate) struct Placement {
    groups: [Group; GROUP_COUNT as usize],
    version: AtomicU64,
}

impl Placement {
    /// Groups dealt out in turn to nodes 0, 1, 2, ...
    pub(crate) fn fixed(node_count: u32) -> Self {
        assert!(node_count > 0, "a cluster has at least one node");
        let group = |index: usize| Group {
            owner: AtomicU32::new(u32::try_from(index).expect("64 groups") % node_count),
            epoch: AtomicU64::new(Epoch::FIRST.get()),
        };
        Self { groups: std::array::from_fn(group), version: AtomicU64::new(0) }
    }

    fn group(&self, group: GroupId) -> &Group {
        &self.groups[group.get() as usize]
    }

    pub(crate) fn owner(&self, group: GroupId) -> NodeId {
        NodeId::new(self.group(group).owner.load(Ordering::Relaxed))
    }

    pub(crate) fn epoch(&self, group: GroupId) -> Epoch {
        Epoch::new(self.group(group).epoch.load(Ordering::Acquire))
    }

    /// Raises a group's epoch, as a change of owner will; lower values are ignored.
    pub(crate) fn raise_epoch(&self, group: GroupId, epoch: Epoch) {
        self.group(group).epoch.fetch_max(epoch.get(), Ordering::AcqRel);
        self.version.fetch_add(1, Ordering::AcqRel);
    }

    /// Rises whenever anything here changes: what was resolved under another version must be resolved again.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }
}

/// The shard that owns a slot on a node with `shard_count` shards.
pub(crate) fn shard_of(slot: Slot, shard_count: u16) -> u16 {
    // The group takes the upper bits, so the shard takes the lower ones: neighbours in a group spread over shards.
    slot.get() % shard_count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_spread_evenly_and_epochs_only_rise() {
        let placement = Placement::fixed(2);
        let of_node_0 = GroupId::all().filter(|group| placement.owner(*group) == NodeId::new(0)).count();
        assert_eq!(of_node_0, 32);
        let group = GroupId::new(3).expect("a group");
        placement.raise_epoch(group, Epoch::new(5));
        placement.raise_epoch(group, Epoch::new(4));
        assert_eq!(placement.epoch(group), Epoch::new(5));
    }

    #[test]
    fn slots_of_a_group_spread_over_shards() {
        let mut seen = [0; 4];
        for slot in 0..64 {
            seen[shard_of(Slot::new(slot).expect("a slot"), 4) as usize] += 1;
        }
        assert_eq!(seen, [16; 4]);
    }
}
