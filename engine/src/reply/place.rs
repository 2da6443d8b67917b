//! `Reply`: the place of one answer, for handlers that answer later, elsewhere, or let another actor answer.
//!
//! Invariant: a place is used once: answered, failed, forwarded, or dropped, which fails it. Any thread.

use std::marker::PhantomData;
use std::time::Duration;

use super::{ReplyAddress, answer};
use crate::envelope::EpochTag;
use crate::error::{AskError, Panicked};
use crate::link::ShardLink;
use crate::shard::{ShardCell, current};

/// The place of one answer. A [`DeferredHandler`](crate::DeferredHandler) gets it and may answer later, from any thread.
///
/// Dropping it unanswered ends the ask as `Failed`. For a tell nobody waits and the answer is dropped.
#[must_use = "dropping a reply unanswered fails the ask"]
pub struct Reply<R: Send + 'static> {
    address: Option<ReplyAddress>,
    epoch: Option<EpochTag>,
    /// The shard that was asked: the answer's room is reserved in its ring to the asker.
    home: &'static ShardLink,
    /// When an asker on another shard gives up, on the shards' common clock; 0 where the asker's slot says it, or nobody.
    until_ns: u64,
    _reply: PhantomData<fn(R)>,
}

impl<R: Send + 'static> Reply<R> {
    pub(crate) fn new(
        address: Option<ReplyAddress>,
        epoch: Option<EpochTag>,
        home: &'static ShardLink,
        until_ns: u64,
    ) -> Self {
        Self { address, epoch, home, until_ns, _reply: PhantomData }
    }

    /// Whether somebody waits for the answer.
    #[must_use]
    pub fn is_expected(&self) -> bool {
        self.address.is_some()
    }

    /// Whether the answer is still waited for: `false` once the asker has given up, by its deadline or by dropping its ask, so that
    /// work on the answer can be left out. Where that cannot be known, outside the shard that was asked, it is `true` until the
    /// deadline.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.is_expected()
            && self
                .here(|shard, address| {
                    let mut core = shard.core.borrow_mut();
                    if address.0.shard() == shard.link.shard().get() {
                        return Some(core.replies.waiting(address).is_some());
                    }
                    let forsaken = std::ptr::eq(shard.link, self.home) && core.forsaken.has(address);
                    Some(!forsaken && (self.until_ns == 0 || self.until_ns > core.now_ns))
                })
                .unwrap_or(true)
    }

    /// How long the asker still waits, to bound what is done for the answer: `cx.ask(..).deadline(left)`. `None` when nobody
    /// waits, when the message was put aside meanwhile, and outside the shards of its engine, where there is no clock to look at.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        self.here(|shard, address| {
            let mut core = shard.core.borrow_mut();
            let until_ns = if address.0.shard() == shard.link.shard().get() {
                core.replies.deadline_ns(address)?
            } else {
                Some(self.until_ns).filter(|until_ns| *until_ns != 0)?
            };
            Some(Duration::from_nanos(until_ns.saturating_sub(core.now_ns)))
        })
    }

    /// Calls `f` if somebody waits and the calling thread runs a shard of the engine.
    fn here<T>(&self, f: impl FnOnce(&ShardCell, ReplyAddress) -> Option<T>) -> Option<T> {
        let address = self.address?;
        current(|shard| {
            let shard = shard.filter(|shard| std::ptr::eq(shard.link.engine(), self.home.engine()))?;
            f(shard, address)
        })
    }

    /// Answers. An asker that has given up meanwhile is not told.
    pub fn send(mut self, reply: R) {
        self.finish(Ok(reply));
    }

    /// Ends the ask with an error instead of an answer.
    pub fn fail(mut self, error: AskError) {
        self.finish(Err(error));
    }

    /// Gives the answer's place to a message that is put aside; whoever handles it gets another `Reply`.
    pub(crate) fn into_address(mut self) -> Option<ReplyAddress> {
        self.address.take()
    }

    /// Whom it answers, from where, and until when; for one that hands the place on.
    pub(crate) fn parts(&self) -> (Option<ReplyAddress>, Option<EpochTag>, &'static ShardLink, u64) {
        (self.address, self.epoch, self.home, self.until_ns)
    }

    fn finish(&mut self, value: Result<R, AskError>) {
        let Some(address) = self.address.take() else { return };
        let (epoch, home) = (self.epoch, self.home);
        current(|shard| match shard {
            Some(shard) if std::ptr::eq(shard.link, home) => answer(shard, address, epoch, value),
            _ => home.run(Box::new(move |shard| answer(shard, address, epoch, value))),
        });
    }
}

impl<R: Send + 'static> Drop for Reply<R> {
    fn drop(&mut self) {
        if self.address.is_some() {
            if !std::thread::panicking() {
                return self.finish(Err(AskError::Failed(Panicked("the handler dropped its reply unanswered".into()))));
            }
            let home = self.home;
            let left = current(|shard| {
                let shard = shard.filter(|shard| std::ptr::eq(shard.link, home))?;
                // Whoever catches the panic knows its text and answers.
                shard.core.borrow_mut().orphans.push(self.address.take()?);
                Some(())
            });
            if left.is_none() {
                self.finish(Err(AskError::Failed(Panicked("the handler panicked".into()))));
            }
        }
    }
}

impl<R: Send + 'static> std::fmt::Debug for Reply<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Reply<{}>({})",
            std::any::type_name::<R>(),
            if self.address.is_some() { "expected" } else { "not expected" }
        )
    }
}
