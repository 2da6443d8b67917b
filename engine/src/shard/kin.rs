//! Kin: who is whose child on one shard, oldest child first.
//!
//! Invariant: a child never outlives its parent, so ties are made of indices alone; whoever leaves has no children. Actors that
//! have neither parent nor children cost nothing, others 16 bytes; no tie is an allocation of its own. Shard thread only.

use super::cell::CHUNK_INDICES;

const NONE: u32 = u32::MAX;

/// One actor's ties, by index of its cell.
#[derive(Clone, Copy)]
struct Ties {
    parent: u32,
    /// Its oldest child.
    first: u32,
    /// The next younger child of the same parent.
    next: u32,
    /// The next older one; of the oldest, the youngest.
    previous: u32,
}

const ALONE: Ties = Ties { parent: NONE, first: NONE, next: NONE, previous: NONE };

/// See the module's head.
#[derive(Default)]
pub(crate) struct Kin {
    chunks: Vec<Option<Box<[Ties; CHUNK_INDICES]>>>,
}

fn some(index: u32) -> Option<u32> {
    (index != NONE).then_some(index)
}

impl Kin {
    #[inline]
    fn get(&self, index: u32) -> Ties {
        match self.chunks.get(index as usize / CHUNK_INDICES) {
            Some(Some(chunk)) => chunk[index as usize % CHUNK_INDICES],
            _ => ALONE,
        }
    }

    fn of(&mut self, index: u32) -> &mut Ties {
        let chunk = index as usize / CHUNK_INDICES;
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let ties = self.chunks[chunk].get_or_insert_with(|| Box::new([ALONE; CHUNK_INDICES]));
        &mut ties[index as usize % CHUNK_INDICES]
    }

    /// Whose child it is; `None` for a root of the spawn tree.
    #[inline]
    pub(crate) fn parent(&self, index: u32) -> Option<u32> {
        some(self.get(index).parent)
    }

    /// Its oldest child.
    #[inline]
    pub(crate) fn first_child(&self, index: u32) -> Option<u32> {
        some(self.get(index).first)
    }

    /// The next younger child of the same parent.
    pub(crate) fn next_sibling(&self, index: u32) -> Option<u32> {
        some(self.get(index).next)
    }

    /// Its children, oldest first.
    pub(crate) fn children(&self, index: u32) -> impl Iterator<Item = u32> {
        std::iter::successors(self.first_child(index), |child| self.next_sibling(*child))
    }

    /// Makes a new actor the youngest child of `parent`.
    pub(crate) fn adopt(&mut self, parent: u32, child: u32) {
        let first = self.get(parent).first;
        if first == NONE {
            self.of(parent).first = child;
            *self.of(child) = Ties { parent, previous: child, ..ALONE };
            return;
        }
        let youngest = self.get(first).previous;
        self.of(youngest).next = child;
        self.of(first).previous = child;
        *self.of(child) = Ties { parent, previous: youngest, ..ALONE };
    }

    /// Cuts the ties of an actor that is gone; returns its parent.
    #[inline]
    pub(crate) fn leave(&mut self, index: u32) -> Option<u32> {
        let ties = self.get(index);
        debug_assert_eq!(ties.first, NONE, "its children went before it");
        let parent = some(ties.parent)?;
        if ties.previous == index {
            // An only child.
            self.of(parent).first = NONE;
        } else {
            let first = self.get(parent).first;
            if first == index {
                self.of(parent).first = ties.next;
            } else {
                self.of(ties.previous).next = ties.next;
            }
            let younger = if ties.next == NONE { first } else { ties.next };
            self.of(younger).previous = ties.previous;
        }
        *self.of(index) = ALONE;
        Some(parent)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::random::Random;

    #[test]
    fn random_trees_agree_with_lists() {
        for seed in 0..100 {
            let mut random = Random::new(seed);
            let mut below = |bound: usize| random.next_u64() as usize % bound;
            // Children of each, oldest first; who lives.
            let (mut kin, mut model, mut live) = (Kin::default(), vec![Vec::<u32>::new(); 3000], vec![5_u32]);
            for _ in 0..2000 {
                if below(3) > 0 || live.len() == 1 {
                    let parent = live[below(live.len())];
                    let child = below(3000) as u32;
                    if live.contains(&child) {
                        continue;
                    }
                    kin.adopt(parent, child);
                    model[parent as usize].push(child);
                    live.push(child);
                } else {
                    let at = 1 + below(live.len() - 1);
                    let gone = live[at];
                    if model[gone as usize].is_empty() {
                        live.remove(at);
                        let parent = kin.leave(gone).expect("all but the first have one");
                        model[parent as usize].retain(|child| *child != gone);
                        assert_eq!(kin.parent(gone), None);
                    }
                }
                for parent in &live {
                    let children: Vec<_> = kin.children(*parent).collect();
                    assert_eq!(children, model[*parent as usize], "seed {seed}");
                    assert!(children.iter().all(|child| kin.parent(*child) == Some(*parent)));
                }
            }
        }
    }
}
