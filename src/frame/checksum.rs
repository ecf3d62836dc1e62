//! The internet checksum (RFC 1071): whole, in parts, and over parts of odd length.
//!
//! Invariant: a [`Sum`] is a one's complement sum in memory order, so parts may be added in any
//! number of calls, for instance while they are being copied. Pure; any thread.
//! Knows nothing of the headers that hold a checksum, except what [`complete_checksum`] is told.

use super::vnet::VnetHeader;
use crate::stats::DropReason;

#[cfg(test)]
mod tests;

/// `csum_offset` of UDP: the one protocol in which a checksum of zero means "none" (RFC 768).
pub(super) const UDP_CSUM_OFFSET: u16 = 6;

/// A running one's complement sum of 16-bit words in network order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// In memory order; each merge adds at most 16 bits, so it cannot overflow in practice.
    words: u64,
    /// Whether an odd number of bytes went in: the next byte is the low half of a word.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Self {
            words: 0,
            odd: false,
        }
    }

    /// The sum of `bytes`.
    #[inline]
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            words: u64::from(sum_words(bytes)),
            odd: bytes.len() % 2 == 1,
        }
    }

    /// The sum of an even number of bytes, of which somebody has added up the 16-bit words as they lie in
    /// memory.
    #[inline]
    pub const fn of_words(words: u64) -> Self {
        Self { words, odd: false }
    }

    /// Continues the sum with the bytes that follow.
    #[inline]
    pub fn add(&mut self, bytes: &[u8]) {
        self.append(Self::of(bytes));
    }

    /// Continues the sum with a 16-bit field.
    #[inline]
    pub fn add_u16(&mut self, word: u16) {
        self.append(Self {
            words: u64::from(word.to_be()),
            odd: false,
        });
    }

    /// Continues the sum with what was summed elsewhere over the bytes that follow.
    #[inline]
    pub fn append(&mut self, part: Self) {
        let words = fold(part.words);
        // RFC 1071, 2(B): an odd offset swaps the bytes of all that follows.
        self.words += u64::from(if self.odd { words.swap_bytes() } else { words });
        self.odd ^= part.odd;
    }

    /// The folded sum, not complemented: what a partial checksum field holds.
    #[inline]
    pub fn partial(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    pub fn finish(self) -> u16 {
        !self.partial()
    }
}

/// Completes the checksum that `header` describes in `frame`, a whole frame in a private buffer.
///
/// The field holds the sum of the pseudo-header, as virtio 1.3, 5.1.6.2 asks of the sender. The
/// caller clears the flags of the header that it passes on, see [`VnetHeader::for_receiver`].
pub fn complete_checksum(frame: &mut [u8], header: &VnetHeader) -> Result<(), DropReason> {
    complete_front(frame, header, Sum::new())
}

/// The same where only the first bytes of the frame, among them the field, are in the buffer, and `rest` is
/// the sum of the others.
pub fn complete_front(front: &mut [u8], header: &VnetHeader, rest: Sum) -> Result<(), DropReason> {
    let start = usize::from(header.csum_start);
    let field = start + usize::from(header.csum_offset);
    let mut sum = Sum::of(front.get(start..).ok_or(DropReason::BadChecksum)?);
    sum.append(rest);
    let sum = sum.finish();
    let sum = if header.csum_offset == UDP_CSUM_OFFSET {
        never_zero(sum)
    } else {
        sum
    };
    front
        .get_mut(field..field + 2)
        .ok_or(DropReason::BadChecksum)?
        .copy_from_slice(&sum.to_be_bytes());
    Ok(())
}

/// RFC 768: a UDP checksum that is computed as zero is transmitted as all ones.
pub(super) fn never_zero(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

/// The folded sum of `bytes` in memory order, a missing last byte taken as zero.
///
/// Two independent 128-bit sums compile to pairs of add-with-carry; measured against 32-bit lanes
/// that vectorise, this is faster at every length on a machine without wider vectors enabled.
#[inline]
fn sum_words(bytes: &[u8]) -> u16 {
    let (blocks, rest) = bytes.as_chunks::<32>();
    let (mut even, mut odd) = (0_u128, 0_u128);
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        even += u128::from(u64::from_ne_bytes(words[0]));
        odd += u128::from(u64::from_ne_bytes(words[1]));
        even += u128::from(u64::from_ne_bytes(words[2]));
        odd += u128::from(u64::from_ne_bytes(words[3]));
    }
    let (words, rest) = rest.as_chunks::<4>();
    for word in words {
        even += u128::from(u32::from_ne_bytes(*word));
    }
    let (words, rest) = rest.as_chunks::<2>();
    for word in words {
        odd += u128::from(u16::from_ne_bytes(*word));
    }
    if let [last] = rest {
        odd += u128::from(u16::from_ne_bytes([*last, 0]));
    }
    let sum = even + odd;
    let sum = (sum >> 64) + u128::from(sum as u64);
    fold((sum >> 64) as u64 + fold_half(sum as u64))
}

/// Folds 64 bits into 33.
#[inline]
fn fold_half(sum: u64) -> u64 {
    (sum >> 32) + (sum & 0xffff_ffff)
}

/// Folds 64 bits into 16, carries around (RFC 1071, section 1).
#[inline]
fn fold(sum: u64) -> u16 {
    let sum = fold_half(fold_half(sum));
    let sum = (sum >> 16) + (sum & 0xffff);
    ((sum >> 16) + (sum & 0xffff)) as u16
}
