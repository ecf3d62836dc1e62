//! The flow of a frame as a hash: it picks the receive queue, so that a flow stays in order.
//!
//! Invariants: the fragments of a packet share a hash; a tag does not change it. Pure; any thread.
//! Not symmetric, and not secret: a guest that aims at one queue hurts only its own receiver's
//! spread. Knows nothing of queues.

use super::layers::{Layers, protocol};

#[cfg(test)]
mod tests;

/// Odd constants without structure: fractions of square roots.
const KEYS: [u64; 3] = [
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0xa54f_f53a_5f1d_36f1,
];

const MACS_LEN: usize = 12;

/// The hash of the flow that a frame belongs to, from its first bytes.
///
/// TCP, UDP and SCTP: addresses, protocol and ports. Fragments, other protocols and a packet whose
/// ports are not in `head`: addresses. All else: the MAC addresses.
#[inline]
pub fn flow_hash(head: &[u8]) -> u32 {
    let layers = Layers::locate(head);
    match layers.and_then(|layers| Some((layers, layers.addresses(head)?))) {
        Some((layers, addresses)) => {
            let (words, _) = addresses.as_chunks();
            match words.first_chunk() {
                Some(words) => hash(words.map(u64::from_ne_bytes), ports(&layers, head)),
                None => hash([first_word(addresses), 0, 0, 0], ports(&layers, head)),
            }
        }
        None => match head.first_chunk::<MACS_LEN>() {
            // The two words overlap.
            Some(macs) => hash(
                [first_word(macs), first_word(&macs[MACS_LEN - 8..]), 0, 0],
                0,
            ),
            None => 0,
        },
    }
}

#[inline]
fn first_word(bytes: &[u8]) -> u64 {
    bytes
        .first_chunk()
        .map_or(0, |word| u64::from_ne_bytes(*word))
}

/// Ports and protocol in one word, zero where the packet has none to show.
#[inline]
fn ports(layers: &Layers, head: &[u8]) -> u64 {
    let known = matches!(
        layers.protocol,
        protocol::TCP | protocol::UDP | protocol::SCTP
    );
    if !known || layers.fragment {
        return 0;
    }
    match head
        .get(layers.l4..)
        .and_then(|transport| transport.first_chunk())
    {
        Some(ports) => u64::from(layers.protocol) << 32 | u64::from(u32::from_ne_bytes(*ports)),
        None => 0,
    }
}

/// Two folded multiplications side by side, then one by a constant: a single product would map ports
/// in sequence, which is how a client picks them, to steps of one size.
#[inline]
fn hash(words: [u64; 4], rest: u64) -> u32 {
    let first = multiply(words[0] ^ KEYS[0], words[1] ^ KEYS[1] ^ rest);
    let second = multiply(words[2] ^ KEYS[1], words[3] ^ KEYS[2]);
    let state = multiply(first ^ second, KEYS[2]);
    (state ^ state >> 32) as u32
}

/// The full product, its halves folded.
#[inline]
fn multiply(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}
