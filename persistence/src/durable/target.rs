//! `TellTarget`: whom an effect can tell.

use shardstage::{Actor, ActorRef, Message, Receive, Recipient, VirtualActor, VirtualRef, WireMessage};

/// An [`ActorRef`], a [`Recipient`] or a [`VirtualRef`]. `K` is inferred.
pub trait TellTarget<M: Message, K>: sealed::Sealed + 'static {
    /// Sends the message; whether the receiver took it.
    #[doc(hidden)]
    fn tell_message(self, message: M) -> bool;
}

mod sealed {
    pub trait Sealed {}
    impl<A> Sealed for super::ActorRef<A> {}
    impl<M> Sealed for super::Recipient<M> {}
    impl<A> Sealed for super::VirtualRef<A> {}
}

impl<B, M, K> TellTarget<M, K> for ActorRef<B>
where
    B: Actor + Receive<M, K>,
    M: Message,
    K: 'static,
{
    fn tell_message(self, message: M) -> bool {
        self.tell(message).is_ok()
    }
}

impl<M: Message> TellTarget<M, ()> for Recipient<M> {
    fn tell_message(self, message: M) -> bool {
        self.tell(message).is_ok()
    }
}

impl<B, M, K> TellTarget<M, K> for VirtualRef<B>
where
    B: VirtualActor + Receive<M, K>,
    M: WireMessage,
    K: 'static,
{
    fn tell_message(self, message: M) -> bool {
        self.tell(message).is_ok()
    }
}
