//! What a frame of a load says of itself: the flow it belongs to, and its number in that.
//!
//! The stamp lies at the beginning of the payload of UDP or TCP, so that it and the headers before it end with the
//! first cache line of a buffer whose frame is untagged. Behind it the bytes have no meaning, except in a sampled
//! frame: there they are a pattern of their own, which shows whether a copy was right to the last byte.

/// Bytes of a stamp.
pub const LEN: usize = 10;
/// Of the frames of a flow, one in so many is sampled.
const SAMPLE: u32 = 256;

const UDP: u8 = 17;
const TCP: u8 = 6;

/// Which frame this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Counts the frames of the flow; wraps.
    pub sequence: u32,
    /// The flow in the stream.
    pub flow: u16,
    /// Tells senders apart.
    pub stream: u16,
}

impl Stamp {
    /// Writes it where it stands in a frame: in two words, because they are soon read again, and a processor waits for
    /// what it has stored in smaller pieces.
    #[inline]
    pub fn write(self, to: &mut [u8; LEN]) {
        let (word, check) = to.split_at_mut(8);
        word.copy_from_slice(&self.word().to_be_bytes());
        check.copy_from_slice(&self.check().to_be_bytes());
    }

    /// Reads the stamp of a frame of which `head` is the beginning, and where the bytes behind it begin; `None` for a
    /// frame of somebody else.
    #[inline]
    pub fn read(head: &[u8]) -> Option<(Self, usize)> {
        let tag = if head.get(12..14)? == [0x81, 0] { 4 } else { 0 };
        if head.get(12 + tag..15 + tag)? != [8, 0, 0x45] {
            return None;
        }
        let at = tag + payload_at(*head.get(23 + tag)?)?;
        let bytes: &[u8; LEN] = head.get(at..)?.first_chunk()?;
        let (word, check) = bytes.split_first_chunk()?;
        let word = u64::from_be_bytes(*word);
        let stamp = Self {
            sequence: (word >> 32) as u32,
            flow: (word >> 16) as u16,
            stream: word as u16,
        };
        let check = u16::from_be_bytes([check[0], check[1]]);
        (check == stamp.check()).then_some((stamp, at + LEN))
    }

    /// Not a number that a stranger's frame has there by chance.
    fn check(self) -> u16 {
        (self.seed() >> 48) as u16
    }

    fn seed(self) -> u64 {
        mix(self.word() ^ 0x6576_6220_6c6f_6164)
    }

    fn word(self) -> u64 {
        u64::from(self.sequence) << 32 | u64::from(self.flow) << 16 | u64::from(self.stream)
    }
}

/// Where the payload of an untagged IPv4 packet without options begins.
fn payload_at(protocol: u8) -> Option<usize> {
    match protocol {
        UDP => Some(42),
        TCP => Some(54),
        _ => None,
    }
}

/// Whether the bytes behind the stamp of this frame are its pattern.
#[inline]
pub fn is_sampled(stamp: Stamp) -> bool {
    stamp.sequence.wrapping_add(stamp.flow.into()) % SAMPLE == SAMPLE - 1
}

/// Fills the bytes behind the stamp of a sampled frame.
pub fn fill_body(stamp: Stamp, body: &mut [u8]) {
    for (word, bytes) in pattern(stamp).zip(body.chunks_mut(8)) {
        bytes.copy_from_slice(&word[..bytes.len()]);
    }
}

/// Whether these are the bytes behind the stamp of a sampled frame.
pub fn is_whole(stamp: Stamp, body: &[u8]) -> bool {
    pattern(stamp)
        .zip(body.chunks(8))
        .all(|(word, bytes)| *bytes == word[..bytes.len()])
}

fn pattern(stamp: Stamp) -> impl Iterator<Item = [u8; 8]> {
    let seed = stamp.seed();
    (1..).map(move |place: u64| mix(seed.wrapping_add(place)).to_le_bytes())
}

/// The finalizer of MurmurHash3: every bit of the result depends on every bit of `word`.
#[inline]
fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}
