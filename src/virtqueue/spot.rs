//! Places in a ring.

/// A place in a ring. Split: a free-running index, `wrap` unused. Packed: an index below the queue
/// size and the wrap counter that goes with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Spot {
    pub index: u16,
    pub wrap: bool,
}

impl Spot {
    /// Where a packed ring begins.
    pub const START: Spot = Spot {
        index: 0,
        wrap: true,
    };

    /// As a packed ring says it: the wrap counter above 15 bits of index.
    #[inline]
    pub fn from_bits(bits: u16) -> Spot {
        Spot {
            index: bits & 0x7fff,
            wrap: bits & 0x8000 != 0,
        }
    }

    /// The reverse of [`Spot::from_bits`].
    #[inline]
    pub fn to_bits(self) -> u16 {
        self.index | u16::from(self.wrap) << 15
    }
}

/// The next chain to take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cursor {
    pub spot: Spot,
    /// The available index as last read (split only).
    pub seen: u16,
}
