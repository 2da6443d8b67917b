//! `Sending`: a message that waits for room in its receiver's mailbox.
//!
//! Invariant: nothing is sent before the first poll or `wait`; the message is either here or was sent, never both.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread::Thread;

use crate::ask::Target;
use crate::credit::{Credit, CreditKey};
use crate::envelope::VTable;
use crate::error::{Rejected, TellError};
use crate::link::ShardLink;
use crate::message::Message;
use crate::route;
use crate::shard::assert_not_on_a_shard;
use crate::waiting::{Turn, WaiterId, Whom};

/// A message on its way to a receiver that may have no room yet: a future that never ends as [`TellError::Full`].
///
/// Senders that wait for one receiver are served in the order in which they were first polled. Inside an async handler it
/// suspends that actor only; while nobody has to wait it costs what a `tell` costs. It never overruns a mailbox: what was under
/// way when the receiver was first found short, no more than the rings hold, enters beyond the bound.
///
/// # Cancel safety
/// Dropped before it was ready, it has not sent and never will, and whoever waits behind it moves up. Once it was ready with
/// `Ok`, the message was sent.
#[must_use = "nothing is sent until it is awaited"]
pub struct Sending<M: Message> {
    target: Target,
    vtable: &'static VTable,
    message: Option<M>,
    place: Option<(&'static ShardLink, WaiterId)>,
}

// The message is moved out as a whole and never pinned.
impl<M: Message> Unpin for Sending<M> {}

impl<M: Message> Sending<M> {
    pub(crate) fn new(target: Target, vtable: &'static VTable, message: M) -> Self {
        Self { target, vtable, message: Some(message), place: None }
    }

    /// Sends the message, and blocks the calling thread until there is room for it. In a test on virtual time it runs the
    /// world until then.
    ///
    /// # Errors
    /// As the future: see [`ActorRef::send`](crate::ActorRef::send).
    ///
    /// # Panics
    /// On a shard's thread, which must never block.
    pub fn wait(mut self) -> Result<(), TellError<M>> {
        assert_not_on_a_shard("Sending::wait()");
        if let Some(world) = crate::sim::world_of(self.target.engine()) {
            return world.wait(self);
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut cx = TaskContext::from_waker(&waker);
        loop {
            if let Poll::Ready(sent) = Pin::new(&mut self).poll(&mut cx) {
                return sent;
            }
            std::thread::park();
        }
    }

    /// Tells; who is told `Full`, or finds others waiting, stands in line.
    fn begin(&mut self, message: M, cx: &mut TaskContext<'_>) -> Poll<Result<(), TellError<M>>> {
        let (link, key, whom) = route::line_of(&self.target);
        let message = if link.waiting.has_line(key) {
            message
        } else {
            match route::send_now(&self.target, self.vtable, message) {
                Err(TellError::Full(message)) => message,
                ended => return Poll::Ready(ended),
            }
        };
        self.enter(link, key, whom, message, cx)
    }

    fn enter(
        &mut self,
        link: &'static ShardLink,
        key: CreditKey,
        whom: Whom,
        message: M,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), TellError<M>>> {
        match link.waiting.enter(key, whom, cx.waker().clone()) {
            Ok(id) => {
                self.message = Some(message);
                self.place = Some((link, id));
                link.wake();
                Poll::Pending
            }
            Err(Rejected::Full) => Poll::Ready(Err(TellError::TooManyWaiters(message))),
            Err(reason) => Poll::Ready(Err(TellError::new(reason, message))),
        }
    }

    fn look(
        &mut self,
        link: &'static ShardLink,
        id: WaiterId,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Result<(), TellError<M>>> {
        let turn = link.waiting.look(id, cx.waker());
        if turn == Turn::Waiting {
            return Poll::Pending;
        }
        let message = self.message.take().expect("kept while it waits");
        let (sent, used) = match turn {
            Turn::Waiting => unreachable!("returned above"),
            Turn::Granted => (route::send_with(&self.target, self.vtable, message, Credit::Token), true),
            Turn::Retry => (route::send_now(&self.target, self.vtable, message), false),
            Turn::Over(reason) => (Err(TellError::new(reason, message)), false),
        };
        if let Err(TellError::Full(message)) = sent {
            self.message = Some(message);
            link.waiting.stay(id, cx.waker());
            link.wake();
            return Poll::Pending;
        }
        self.place = None;
        link.waiting.leave(id, used);
        Poll::Ready(sent)
    }
}

impl<M: Message> Future for Sending<M> {
    type Output = Result<(), TellError<M>>;

    /// # Panics
    /// When it was ready before.
    fn poll(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.place {
            Some((link, id)) => self.look(link, id, cx),
            None => {
                let message = self.message.take().expect("a send was polled after it was ready");
                self.begin(message, cx)
            }
        }
    }
}

impl<M: Message> Drop for Sending<M> {
    fn drop(&mut self) {
        if let Some((link, id)) = self.place.take()
            && link.waiting.leave(id, false)
        {
            link.wake();
        }
    }
}

impl<M: Message> std::fmt::Debug for Sending<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = match (&self.place, &self.message) {
            (Some(_), _) => "waiting",
            (None, Some(_)) => "not sent",
            (None, None) => "done",
        };
        write!(f, "Sending<{}>({state})", std::any::type_name::<M>())
    }
}

/// Wakes a thread that waits for its send.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}
