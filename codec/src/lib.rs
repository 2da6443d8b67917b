//! What bytes mean.
macro_rules! id { ($n:ident, $t:ty) => {
    /// An identifier.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct $n(pub $t);
} }
id!(MessageId, u64);
id!(ActorTypeId, u64);
id!(NodeId, u32);
id!(ShardId, u16);
id!(Slot, u16);
id!(GroupId, u8);
id!(Epoch, u64);
