//! Answers in many items: a bounded way from a handler to its asker, as the reply of an ask.
//!
//! ```text
//! asker                                     handler, anywhere
//!   ask(message) ------------------------->  (items, stream) = item_stream(); keeps `items`, answers `stream`
//!   stream.next() grants room for n items -> items.send(item).await, items.try_send(item), cx.feed(items, iterator)
//! ```
//!
//! Invariant: never more items are under way than the asker has granted; before it has looked once, none. Items come in the order
//! in which they were sent, and then the end or the reason, once. When the asker is gone, the next send says so. Any thread.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as TaskContext, Poll, Waker};

use futures_core::Stream;

use crate::actor::Actor;
use crate::context::{Context, PendingAsk};
use crate::error::{AskError, Panicked};
use crate::limits::{FED_AT_ONCE, STREAM_CREDIT};
use crate::message::Message;

struct State<T> {
    queue: VecDeque<T>,
    /// Items that may be queued at once; 0 until the asker has looked.
    credit: usize,
    /// How it ended.
    end: Option<Result<(), AskError>>,
    /// The end was handed over.
    over: bool,
    /// The asker is gone.
    unwanted: bool,
    receiver: Option<Waker>,
    sender: Option<Waker>,
}

struct Channel<T>(Mutex<State<T>>);

impl<T> Channel<T> {
    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes whoever waits, after the lock is gone.
fn wake<T>(state: MutexGuard<'_, State<T>>, waker: Option<Waker>) {
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// A new stream of answers: the sending half stays with whoever makes the items, the other one is the reply.
pub fn item_stream<T: Send + 'static>() -> (ItemSender<T>, ItemStream<T>) {
    let state = State {
        queue: VecDeque::new(),
        credit: 0,
        end: None,
        over: false,
        unwanted: false,
        receiver: None,
        sender: None,
    };
    let channel = Arc::new(Channel(Mutex::new(state)));
    (ItemSender { channel: Arc::clone(&channel) }, ItemStream { channel, credit: STREAM_CREDIT })
}

/// Why an item was not sent. It comes back.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum ItemError<T> {
    /// The asker has granted no more room so far.
    Full(T),
    /// The asker is gone; sending again is pointless.
    Closed(T),
}

impl<T> std::fmt::Debug for ItemError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full",
            Self::Closed(_) => "Closed",
        })
    }
}

impl<T> std::fmt::Display for ItemError<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the asker has granted no more room so far",
            Self::Closed(_) => "the asker is gone",
        })
    }
}

impl<T> std::error::Error for ItemError<T> {}

/// Where the items of an answer go in. Dropped without [`finish`](Self::finish) it ends the stream as `Failed`.
#[must_use = "dropping it fails the stream"]
pub struct ItemSender<T> {
    channel: Arc<Channel<T>>,
}

impl<T: Send + 'static> ItemSender<T> {
    /// Sends an item if there is room for it.
    ///
    /// # Errors
    /// [`ItemError`] hands the item back.
    pub fn try_send(&self, item: T) -> Result<(), ItemError<T>> {
        let mut state = self.channel.lock();
        if state.unwanted {
            return Err(ItemError::Closed(item));
        }
        if state.queue.len() >= state.credit {
            return Err(ItemError::Full(item));
        }
        state.queue.push_back(item);
        let receiver = state.receiver.take();
        wake(state, receiver);
        Ok(())
    }

    /// Sends an item and waits for room.
    ///
    /// # Errors
    /// [`ItemError::Closed`] when the asker is gone, also meanwhile.
    pub async fn send(&mut self, item: T) -> Result<(), ItemError<T>> {
        let mut item = Some(item);
        poll_fn(|cx| {
            let Some(next) = item.take() else { return Poll::Ready(Ok(())) };
            // Before the look, so that room that is granted after it wakes this.
            self.channel.lock().sender = Some(cx.waker().clone());
            match self.try_send(next) {
                Err(ItemError::Full(back)) => {
                    item = Some(back);
                    Poll::Pending
                }
                sent => Poll::Ready(sent),
            }
        })
        .await
    }

    /// Whether the asker still wants items.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.channel.lock().unwanted
    }

    /// Ends the stream after the items that were sent.
    pub fn finish(self) {
        self.end(Ok(()));
    }

    /// Ends the stream with a reason after the items that were sent.
    pub fn fail(self, error: AskError) {
        self.end(Err(error));
    }
}

impl<T> ItemSender<T> {
    fn end(&self, end: Result<(), AskError>) {
        let mut state = self.channel.lock();
        if state.end.is_none() {
            state.end = Some(end);
            let receiver = state.receiver.take();
            wake(state, receiver);
        }
    }
}

impl<T> Drop for ItemSender<T> {
    fn drop(&mut self) {
        self.end(Err(AskError::Failed(Panicked("the handler dropped its stream unfinished".into()))));
    }
}

impl<T> std::fmt::Debug for ItemSender<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ItemSender<{}>", std::any::type_name::<T>())
    }
}

/// The items of an answer: a stream of `Ok(item)`, and one `Err` at the end if it did not end well. Dropping it tells whoever
/// makes the items; those that are under way are dropped.
#[must_use = "dropping it ends the stream"]
pub struct ItemStream<T> {
    channel: Arc<Channel<T>>,
    credit: usize,
}

impl<T: Send + 'static> ItemStream<T> {
    /// Grants room for this many items at a time, 64 unless said. Takes effect when the next item is waited for.
    ///
    /// # Panics
    /// When it is 0.
    pub fn credit(mut self, items: usize) -> Self {
        assert!(items > 0, "an item needs room");
        self.credit = items;
        self
    }

    /// The next item; `None` after the end.
    ///
    /// # Cancel safety
    /// No item is lost when the future is dropped.
    pub async fn next(&mut self) -> Option<Result<T, AskError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    fn poll_item(&mut self, cx: &mut TaskContext<'_>) -> Poll<Option<Result<T, AskError>>> {
        let mut state = self.channel.lock();
        state.credit = self.credit;
        if let Some(item) = state.queue.pop_front() {
            let sender = state.sender.take();
            wake(state, sender);
            return Poll::Ready(Some(Ok(item)));
        }
        if state.over {
            return Poll::Ready(None);
        }
        if let Some(end) = state.end.clone() {
            state.over = true;
            return Poll::Ready(end.err().map(Err));
        }
        state.receiver = Some(cx.waker().clone());
        let sender = state.sender.take();
        wake(state, sender);
        Poll::Pending
    }
}

impl<T: Send + 'static> Stream for ItemStream<T> {
    type Item = Result<T, AskError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.poll_item(cx)
    }
}

impl<T> Drop for ItemStream<T> {
    fn drop(&mut self) {
        let mut state = self.channel.lock();
        state.unwanted = true;
        let queued = std::mem::take(&mut state.queue);
        let sender = state.sender.take();
        wake(state, sender);
        drop(queued);
    }
}

impl<T> std::fmt::Debug for ItemStream<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ItemStream<{}>", std::any::type_name::<T>())
    }
}

/// Waits for the next step, which comes once others have had their turns.
async fn next_step() {
    let mut waited = false;
    poll_fn(|cx| {
        if std::mem::replace(&mut waited, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

impl<A: Actor> Context<A> {
    /// Sends the items of an iterator as the asker grants room for them, then ends the stream. The iterator runs on this shard
    /// beside this actor's messages, and is dropped when the asker is gone, or when this actor stops or is rebuilt; then the
    /// stream ends as `Failed`.
    pub fn feed<T, I>(&mut self, mut items: ItemSender<T>, iterator: I)
    where
        T: Send + 'static,
        I: IntoIterator<Item = T>,
        I::IntoIter: 'static,
    {
        let iterator = iterator.into_iter();
        self.attach_future(
            async move {
                let mut made = 0;
                for item in iterator {
                    if items.send(item).await.is_err() {
                        return;
                    }
                    made += 1;
                    if made % FED_AT_ONCE == 0 {
                        next_step().await;
                    }
                }
                items.finish();
            },
            |_, (), _| {},
            false,
        );
    }
}

impl<A: Actor, M, T> PendingAsk<'_, A, M>
where
    M: Message<Reply = ItemStream<T>>,
    T: Send + 'static,
{
    /// Asks for a stream; `f` runs as a turn of this actor with each item (`Some(Ok(..))`), with the reason if it does not end
    /// well or was refused (`Some(Err(..))`), and once with `None` after the last. One item is one turn. The deadline is that of
    /// the stream itself, not of its items. If this actor stops or is rebuilt, the stream is dropped.
    pub fn for_each<F>(self, mut f: F)
    where
        F: FnMut(&mut A, Option<Result<T, AskError>>, &mut Context<A>) + 'static,
    {
        self.then(move |this, stream, cx| match stream {
            Ok(stream) => cx.for_each(stream, f),
            Err(error) => {
                f(this, Some(Err(error)), cx);
                f(this, None, cx);
            }
        });
    }
}
