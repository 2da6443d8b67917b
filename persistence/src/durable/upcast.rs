//! `Stored`: bytes of an event or snapshot as some version of the program wrote them; `Upcast`: their way to today's version.
//!
//! Invariant: bytes are read as the version that wrote them, or not at all.

use shardstage_codec::{Wire, WireValue, decode};

/// An event or a snapshot as it lies in the store. The bytes start at a multiple of 16.
#[derive(Clone, Copy, Debug)]
pub struct Stored<'a> {
    version: u16,
    bytes: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Bytes of this schema version, which start at a multiple of 16.
    #[must_use]
    pub fn new(version: u16, bytes: &'a [u8]) -> Self {
        Self { version, bytes }
    }

    /// Version of the schema that they were written with.
    #[must_use]
    pub fn version(&self) -> u16 {
        self.version
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Reads them as a `T`, whatever their version; `None` when they are none.
    #[must_use]
    pub fn decode<T: WireValue>(&self) -> Option<T> {
        decode(self.bytes).ok()
    }

    /// Begins a chain of versions with the oldest that is still read.
    ///
    /// ```
    /// use shardstage::wire;
    /// use shardstage_persistence::{Stored, Upcast};
    ///
    /// #[wire(id = "order.placed", version = 1)]
    /// struct PlacedV1 { cents: u32 }
    /// #[wire(id = "order.placed", version = 2)]
    /// struct PlacedV2 { cents: u64 }
    /// #[wire(id = "order.placed", version = 3)]
    /// struct Placed { cents: u64, currency: String }
    ///
    /// impl From<PlacedV1> for PlacedV2 {
    ///     fn from(old: PlacedV1) -> Self { Self { cents: old.cents.into() } }
    /// }
    /// impl From<PlacedV2> for Placed {
    ///     fn from(old: PlacedV2) -> Self { Self { cents: old.cents, currency: "EUR".into() } }
    /// }
    ///
    /// // The body of `EventSourced::upcast`:
    /// fn upcast(stored: Stored<'_>) -> Upcast<'_, Placed> {
    ///     stored.read::<PlacedV1>().then::<PlacedV2>().then::<Placed>()
    /// }
    /// ```
    pub fn read<V: Wire>(self) -> Upcast<'a, V> {
        Upcast { stored: self, step: Step::Unread }.try_read()
    }
}

/// Where a stored event is on its way through the versions.
#[derive(Debug)]
#[must_use = "an event that is not returned is not applied"]
pub struct Upcast<'a, T> {
    stored: Stored<'a>,
    step: Step<T>,
}

#[derive(Debug)]
enum Step<T> {
    /// Its version has not come yet.
    Unread,
    Read(T),
    /// Its version came, but the bytes are none of it.
    Damaged(String),
}

impl<'a, T: Wire> Upcast<'a, T> {
    fn try_read(self) -> Self {
        if !matches!(self.step, Step::Unread) || self.stored.version != T::VERSION {
            return self;
        }
        let step = match decode(self.stored.bytes) {
            Ok(value) => Step::Read(value),
            Err(error) => Step::Damaged(error.to_string()),
        };
        Self { stored: self.stored, step }
    }

    /// Goes on to the next version. Versions must rise along the chain; another order does not compile.
    pub fn then<U: Wire + From<T>>(self) -> Upcast<'a, U> {
        const { assert!(U::VERSION > T::VERSION, "a chain of versions rises") };
        let step = match self.step {
            Step::Unread => Step::Unread,
            Step::Read(value) => Step::Read(U::from(value)),
            Step::Damaged(why) => Step::Damaged(why),
        };
        Upcast { stored: self.stored, step }.try_read()
    }

    /// The event; `Ok(Err(stored))` when no version of the chain wrote it.
    pub(super) fn end(self) -> Result<Result<T, Stored<'a>>, String> {
        match self.step {
            Step::Read(value) => Ok(Ok(value)),
            Step::Unread => Ok(Err(self.stored)),
            Step::Damaged(why) => Err(why),
        }
    }
}
