//! Picking a worker: a type with several activations a shard, each under a number, addressed as one.
//!
//! Invariant: a message goes to the lowest-numbered worker that has nothing to do, else to a new one, else to the one with the
//! fewest messages; so in quiet times the higher numbers are idle and leave. Shard thread only.

use super::cell::{Cell, Life};
use super::core::ShardCore;
use crate::actor::StopReason;
use crate::envelope::EpochTag;
use crate::error::Rejected;
use crate::key::Key;

/// Messages that a worker has, the one that it handles among them.
fn load(cell: &Cell) -> u32 {
    cell.len() + u32::from(cell.scheduled || cell.conduct.suspended)
}

impl ShardCore {
    /// The cell of the worker to whom the next message goes. The cost grows with the workers that are busy.
    pub(super) fn pick_worker(
        &mut self,
        position: usize,
        numbers: &'static [Key],
        epoch: EpochTag,
    ) -> Result<(u32, u32), Rejected> {
        let (mut vacant, mut leaving, mut least) = (None, None, None);
        for number in numbers {
            let Some(id) = self.directory.get(position, number) else {
                vacant = vacant.or(Some(number));
                continue;
            };
            let cell = self.cells.peek(id.0, id.1).expect("directory entries are live");
            match cell.conduct.life {
                Life::Live | Life::New if load(cell) == 0 => return Ok(id),
                Life::Live | Life::New if least.is_none_or(|(other, _)| load(cell) < other) => {
                    least = Some((load(cell), id));
                }
                Life::Stopping if cell.stop_reason() == Some(StopReason::Passivated) => leaving = Some(number),
                _ => {}
            }
        }
        // A message that comes while one leaves keeps it.
        match (leaving.or(vacant), least) {
            (Some(number), _) => self.activate_key(position, number, epoch),
            (None, Some((_, id))) => Ok(id),
            // All of them are about to stop.
            (None, None) => Err(Rejected::Full),
        }
    }
}
